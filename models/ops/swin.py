"""torchvision's Swin blocks of both versions, made of the fast forms of their attention and perceptrons."""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2

from istd.models.ops.mlp import chunked_mlp
from istd.models.ops.norm import layer_norm
from istd.models.ops.window_attention import FastWindowAttention3d, FastWindowAttentionV2

STOCHASTIC_DEPTH = 0.1  # of the last block


class SwinBlock3d(SwinTransformerBlock):
    """torchvision's block of Video Swin, [B, T, H, W, C] -> same."""

    attention: ClassVar = FastWindowAttention3d

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        return x + self.stochastic_depth(chunked_mlp(x, self.mlp, self.norm2))


class SwinBlockV2(SwinTransformerBlockV2):
    """torchvision's block of Swin V2, [B, H, W, C] -> same."""

    attention: ClassVar = FastWindowAttentionV2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(layer_norm(self.attn(x), self.norm1))
        return x + self.stochastic_depth(layer_norm(chunked_mlp(x, self.mlp), self.norm2))


def swin_blocks(
    block: type[SwinBlock3d | SwinBlockV2], window: tuple[int, ...], channels: int, heads: int, drops: list[float]
) -> nn.Sequential:
    """A stage: one `block` for each stochastic-depth probability in `drops`, every second one with shifted windows."""
    shifts = [0] * len(window), [extent // 2 for extent in window]
    return nn.Sequential(
        *(
            block(
                channels, heads, list(window), shifts[layer % 2], stochastic_depth_prob=drop, attn_layer=block.attention
            )
            for layer, drop in enumerate(drops)
        )
    )


def rising_drops(depths: tuple[int, ...]) -> list[list[float]]:
    """Stochastic-depth probabilities of stages of blocks: from 0 at the very first to the last, linearly."""
    last = max(1, sum(depths) - 1)
    return [
        [STOCHASTIC_DEPTH * (sum(depths[:stage]) + layer) / last for layer in range(depth)]
        for stage, depth in enumerate(depths)
    ]
