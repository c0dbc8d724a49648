"""SGMP-UNet in its plain, obvious form, written from the paper's description and named as in published checkpoints.

torchvision's own Swin classes, attention with its matrix. The fast network in `models/` must equal this one.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    ShiftedWindowAttentionV2,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.video.swin_transformer import PatchEmbed3d, ShiftedWindowAttention3d


class PlainChannelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x):
        average, largest = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        return (self.fc2(self.fc1(average).relu()) + self.fc2(self.fc1(largest).relu())).sigmoid()


class PlainSpatialAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        return self.conv1(torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)).sigmoid()


class PlainCBAMBlock(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.ca = PlainChannelAttention(out_channels)
        self.sa = PlainSpatialAttention()
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        out = out * self.ca(out)
        out = out * self.sa(out)
        return (out + self.downsample(x)).relu()


class PlainFusion(nn.Module):
    def __init__(self, spatial_channels, dim, heads, tokens):
        super().__init__()
        self.proj_q = nn.Conv2d(spatial_channels, dim // 2, 1)
        self.downsample = PatchMergingV2(dim // 2)
        self.proj_k = nn.Conv3d(tokens, 1, 1)
        self.k_layer_norm = nn.LayerNorm(dim)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, spatial, temporal):
        query = self.downsample(self.proj_q(spatial).permute(0, 2, 3, 1)).flatten(1, 2)
        key = self.k_layer_norm(self.proj_k(temporal)[:, 0]).flatten(1, 2)
        out, _ = self.multihead_attn(query, key, query, need_weights=True)
        return self.layer_norm(temporal + out.reshape(temporal[:, :1].shape))


class PlainStage(nn.Module):
    def __init__(self, spatial_layer, temporal_layer, fusionst=None):
        super().__init__()
        self.spatial_layer, self.temporal_layer = spatial_layer, temporal_layer
        if fusionst is not None:
            self.fusionst = fusionst


class PlainEncoder(nn.Module):
    def __init__(self, tokens, width, spatial_width, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)):
        super().__init__()
        first = nn.Conv2d(3, spatial_width, 1, bias=False)
        stages = [
            PlainStage(
                nn.Sequential(first, nn.BatchNorm2d(spatial_width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
                nn.Sequential(PatchEmbed3d([2, 4, 4], 3, width, nn.LayerNorm), nn.Dropout(0.0)),
            )
        ]
        block_id = 0
        channels = spatial_width
        for index in range(4):
            dim, out = width * 2**index, spatial_width * 2**index
            blocks = []
            for layer in range(depths[index]):
                shift = [0, 0, 0] if layer % 2 == 0 else [4, 3, 3]
                drop = 0.1 * block_id / (sum(depths) - 1)
                blocks.append(
                    SwinTransformerBlock(
                        dim, heads[index], [8, 7, 7], shift, 4.0, 0.0, 0.0, drop, attn_layer=ShiftedWindowAttention3d
                    )
                )
                block_id += 1
            temporal = nn.Sequential(*blocks)
            if index:
                temporal = nn.Sequential(PatchMerging(dim // 2), temporal)
            spatial = [
                PlainCBAMBlock(channels if i == 0 else out, out, 2 if i == 0 and index else 1)
                for i in range((3, 4, 6, 3)[index])
            ]
            channels = out
            fusion = PlainFusion(out, dim, (3, 6, 2, 2)[index], tokens)
            stages.append(PlainStage(nn.Sequential(*spatial), temporal, fusion))
        self.model = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(8 * width)

    def forward(self, clip, frame):
        spatial, temporal = self.model[0].spatial_layer(frame), self.model[0].temporal_layer(clip)
        features = []
        for stage in self.model[1:]:
            spatial, temporal = stage.spatial_layer(spatial), stage.temporal_layer(temporal)
            temporal = stage.fusionst(spatial, temporal)
            features.append(temporal)
        features[-1] = self.norm(features[-1])
        return features


class PlainDepthwise(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)


class PlainGLU(nn.Module):
    def __init__(self, channels, hidden, out):
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * hidden)
        self.dwconv = PlainDepthwise(hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x):
        x, v = self.fc1(x).chunk(2, dim=-1)
        x = self.dwconv.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x) * v)


class PlainSkip(nn.Module):
    def __init__(self, tokens, channels, out):
        super().__init__()
        self.glu = PlainGLU(tokens * channels, int(2 * channels / 3), out)
        self.skip = nn.Conv2d(tokens * channels, out, 1)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1, 4).flatten(3)  # [B, h, w, T/2 * C], time-major
        return self.glu(x) + self.skip(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PlainPatchExpand(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(channels // 4, channels // 4, bias=False), nn.LayerNorm(channels // 4)
        )

    def forward(self, x):
        return self.projection(F.pixel_shuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


def plain_blocks(dim, heads, drops):
    return [
        SwinTransformerBlockV2(
            dim, heads, [7, 7], [0, 0] if i % 2 == 0 else [3, 3], 4.0, 0.0, 0.0, drop,
            attn_layer=ShiftedWindowAttentionV2,
        )
        for i, drop in enumerate(drops)
    ]  # fmt: skip


class PlainDecoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        drops = [0.1 * i / 9 for i in range(10)]
        self.features = nn.ModuleList(
            [
                PlainPatchExpand(8 * width),
                nn.Sequential(*plain_blocks(4 * width, 12, drops[:2]), PlainPatchExpand(4 * width)),
                nn.Sequential(*plain_blocks(2 * width, 6, drops[2:8]), PlainPatchExpand(2 * width)),
                nn.Sequential(*plain_blocks(width, 3, drops[8:])),
            ]
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, skips):
        x = self.features[0](skips[3])
        for index in (1, 2, 3):
            x = self.features[index](torch.cat([x, skips[3 - index]], dim=-1))
        return self.norm(x)


class PlainHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        drops = [0.1 * i / 3 for i in range(4)]
        self.features = nn.ModuleList(
            [
                nn.Sequential(PlainPatchExpand(width), *plain_blocks(width // 4, 6, drops[:2])),
                nn.Sequential(PlainPatchExpand(width // 4), *plain_blocks(width // 16, 3, drops[2:])),
            ]
        )
        self.fc_s = nn.ModuleList(
            nn.Sequential(nn.Identity(), nn.Conv2d(c, 1, 1)) for c in (width, width // 4, width // 16)
        )
        self.fc = nn.Conv2d(3, 1, 1)

    def forward(self, x0):
        x1 = self.features[0](x0)
        x2 = self.features[1](x1)
        side = [
            F.interpolate(conv(x.permute(0, 3, 1, 2)), scale_factor=scale, mode="bilinear", align_corners=True)
            for conv, x, scale in zip(self.fc_s, (x0, x1, x2), (4, 2, 1), strict=True)
        ]
        return [self.fc(torch.cat(side, dim=1)), side[2], side[1], side[0]]


class PlainSGMPUNet(nn.Module):
    """The clip [B, 3, T, H, W] to [main, aux0, aux1, aux2], each [B, 1, H, W]."""

    def __init__(self, num_frames=6, width=96, spatial_width=64):
        super().__init__()
        tokens = num_frames // 2
        self.encoder = PlainEncoder(tokens, width, spatial_width)
        self.skip_layers = nn.ModuleList(
            PlainSkip(tokens, width * 2**i, width * 2**i // (1 if i == 3 else 2)) for i in range(4)
        )
        self.decoder = PlainDecoder(width)
        self.former = PlainHead(width)

    def forward(self, clip):
        features = self.encoder(clip, clip[:, :, clip.shape[2] // 2])
        skips = [layer(feature) for layer, feature in zip(self.skip_layers, features, strict=True)]
        return self.former(self.decoder(skips))
