"""The skips, the decoder and the head of SGMP-UNet. Maps are [B, H, W, C]."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from istd.models.ops.norm import layer_norm
from istd.models.ops.swin import SwinBlockV2, rising_drops, swin_blocks

WINDOW = (7, 7)


class Skip(nn.Module):
    """MSMU: the time tokens of a feature [B, T/2, H, W, C] gated and mixed into a map [B, H, W, out]."""

    def __init__(self, channels: int, out_channels: int, time_tokens: int):
        super().__init__()
        hidden = 2 * channels // 3
        self.expand = nn.Linear(time_tokens * channels, 2 * hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Linear(hidden, out_channels)
        self.shortcut = nn.Linear(time_tokens * channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b t h w c -> b h w (t c)")
        gate, value = self.expand(x).chunk(2, dim=-1)
        gate = self.depthwise(gate.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.project(F.gelu(gate) * value) + self.shortcut(x)


class PatchExpand(nn.Module):
    """Twice the size with a quarter of the channels, [B, H, W, C] -> [B, 2H, 2W, C/4]."""

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Linear(channels // 4, channels // 4, bias=False)
        self.norm = nn.LayerNorm(channels // 4)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b h w (c r s) -> b (h r) (w s) c", r=2, s=2)
        return layer_norm(self.project(x), self.norm)


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.Linear | nn.Conv2d) and part.bias is not None:
            nn.init.zeros_(part.bias)


class Decoder(nn.Module):
    """Four skips (strides 4, 8, 16, 32; C/2, C, 2C, 8C channels for C = width) to a map [B, H/4, W/4, width]."""

    def __init__(self, width: int, depths: tuple[int, ...], heads: tuple[int, ...]):
        super().__init__()
        channels = [4 * width, 2 * width, width]
        self.expands = nn.ModuleList(PatchExpand(2 * c) for c in channels)
        stages = zip(channels, heads, rising_drops(depths), strict=True)
        self.blocks = nn.ModuleList(swin_blocks(SwinBlockV2, WINDOW, *stage) for stage in stages)
        self.norm = nn.LayerNorm(width)
        _initialise(self)

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips[-1]
        for expand, blocks, skip in zip(self.expands, self.blocks, reversed(skips[:-1]), strict=True):
            x = blocks(torch.cat([expand(x), skip], dim=-1))
        return self.norm(x)


class Head(nn.Module):
    """Decoder map [B, H/4, W/4, C] to logits [B, 1, H, W]: the main logits, then the logits of strides 1, 2 and 4."""

    def __init__(self, width: int, depths: tuple[int, ...], heads: tuple[int, ...]):
        super().__init__()
        channels = [width, width // 4, width // 16]
        self.expands = nn.ModuleList(PatchExpand(c) for c in channels[:-1])
        stages = zip(channels[1:], heads, rising_drops(depths), strict=True)
        self.blocks = nn.ModuleList(swin_blocks(SwinBlockV2, WINDOW, *stage) for stage in stages)
        self.side = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in channels)
        self.main = nn.Conv2d(len(channels), 1, 1)
        _initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for expand, blocks in zip(self.expands, self.blocks, strict=True):
            maps.append(blocks(expand(maps[-1])))
        size = maps[-1].shape[1:3]
        side = []
        for conv, features in zip(self.side, maps, strict=True):
            logits = conv(features.permute(0, 3, 1, 2))
            side.append(F.interpolate(logits, size=size, mode="bilinear", align_corners=True))
        return [self.main(torch.cat(side, dim=1)), *reversed(side)]
