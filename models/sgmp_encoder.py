"""The encoder of SGMP-UNet: a spatial branch of the target frame guides a Video Swin branch of the clip.

Maps of the spatial branch are [B, C, H, W] in channels-last memory, maps of the temporal branch [B, T/2, H, W, C].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2
from torchvision.models.video.swin_transformer import PatchEmbed3d

from istd.models.ops.conv import conv_norm
from istd.models.ops.swin import SwinBlock3d, rising_drops, swin_blocks

WINDOW = (8, 7, 7)
ATTENTION_REDUCTION = 16


class ChannelAttention(nn.Module):
    """Gate of the channels from their averages and maxima: [B, C, H, W] -> [B, C, 1, 1]."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(1, channels // ATTENTION_REDUCTION), 1, bias=False)
        self.expand = nn.Conv2d(max(1, channels // ATTENTION_REDUCTION), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        average, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return self.expand(self.reduce(average).relu() + self.reduce(largest).relu()).sigmoid()


class SpatialAttention(nn.Module):
    """Gate of the positions from the average and maximum over the channels: [B, C, H, W] -> [B, 1, H, W]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)).sigmoid()


class CBAMBlock(nn.Module):
    """Residual block with channel and spatial attention, [B, in, H, W] -> [B, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.channel_attention = ChannelAttention(out_channels)
        self.spatial_attention = SpatialAttention()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.norm1).relu_()
        out = conv_norm(out, self.conv2, self.norm2)
        out = out * self.channel_attention(out)
        out = out * self.spatial_attention(out)
        shortcut = conv_norm(x, *self.shortcut) if len(self.shortcut) else x
        return out.add_(shortcut).relu_()


class SpatialStem(nn.Sequential):
    """Convolution and norm, ReLU, pooling: [B, 3, H, W] -> [B, C, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        # ReLU after the pooling gives the same result from a quarter of the pixels
        return F.max_pool2d(conv_norm(x, *self), 3, stride=2, padding=1).relu_()


class Fusion(nn.Module):
    """MSCA: cross-attention between the branches, whose output is added to every time token of the temporal feature.

    Queries and values come from the spatial feature, keys from the temporal feature, merged over time.

    spatial [B, Cs, 2H, 2W], temporal [B, T/2, H, W, C] -> as temporal.
    """

    def __init__(self, spatial_channels: int, channels: int, heads: int, time_tokens: int):
        super().__init__()
        self.query = nn.Conv2d(spatial_channels, channels // 2, 1)
        self.merge = PatchMergingV2(channels // 2)
        self.key = nn.Linear(time_tokens, 1)
        self.key_norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        query = self.merge(self.query(spatial).permute(0, 2, 3, 1)).flatten(1, 2)
        key = torch.einsum("bthwc, ot -> bhwc", temporal, self.key.weight) + self.key.bias
        key = self.key_norm(key).flatten(1, 2)
        out, _ = self.attention(query, key, query, need_weights=False)
        return self.norm(temporal + out.reshape(temporal[:, :1].shape))


class Stage(nn.Module):
    """An encoder stage: spatial blocks; patch merging (except in the first stage) and Swin blocks; their fusion."""

    def __init__(self, spatial: nn.Module, merge: nn.Module, temporal: nn.Module, fusion: nn.Module):
        super().__init__()
        self.spatial, self.merge, self.temporal, self.fusion = spatial, merge, temporal, fusion

    def forward(self, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, Tensor]:
        spatial = self.spatial(spatial)
        temporal = self.temporal(self.merge(temporal))
        return spatial, self.fusion(spatial, temporal)


class Encoder(nn.Module):
    """Clip [B, T, 3, H, W] and its target frame [B, 3, H, W] to four fused features [B, T/2, h, w, C].

    Their strides are 4, 8, 16 and 32.
    """

    def __init__(
        self,
        time_tokens: int,
        width: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        spatial_width: int,
        spatial_depths: tuple[int, ...],
        fusion_heads: tuple[int, ...],
    ):
        super().__init__()
        self.spatial_stem = SpatialStem(nn.Conv2d(3, spatial_width, 1, bias=False), nn.BatchNorm2d(spatial_width))
        self.patch_embed = PatchEmbed3d([2, 4, 4], 3, width, nn.LayerNorm)
        self.stages = nn.ModuleList()
        for index, drops in enumerate(rising_drops(depths)):
            channels, spatial_channels = width * 2**index, spatial_width * 2**index
            temporal = swin_blocks(SwinBlock3d, WINDOW, channels, heads[index], drops)
            stride = 2 if index else 1
            spatial = [CBAMBlock(spatial_channels // stride, spatial_channels, stride)]
            spatial += [CBAMBlock(spatial_channels, spatial_channels, 1) for _ in range(spatial_depths[index] - 1)]
            merge = PatchMerging(channels // 2) if index else nn.Identity()
            fusion = Fusion(spatial_channels, channels, fusion_heads[index], time_tokens)
            self.stages.append(Stage(nn.Sequential(*spatial), merge, temporal, fusion))
        self.norm = nn.LayerNorm(channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in [self.spatial_stem, *(stage.spatial for stage in self.stages)]:
            module.to(memory_format=torch.channels_last)
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        for module in [m for stage in self.stages for m in (stage.merge, stage.temporal)]:
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    nn.init.trunc_normal_(part.weight, std=0.02)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)

    def forward(self, clip: Tensor, target: Tensor) -> list[Tensor]:
        spatial = self.spatial_stem(target.contiguous(memory_format=torch.channels_last))
        temporal = self.patch_embed(clip.transpose(1, 2))
        features = []
        for stage in self.stages:
            spatial, temporal = stage(spatial, temporal)
            features.append(temporal)
        features[-1] = self.norm(features[-1])
        return features
