"""torchvision's Swin blocks of both versions, made of the fast forms of their attention and perceptrons."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2
from torchvision.ops import StochasticDepth

from istd.models.ops import in_pieces
from istd.models.ops.mlp import chunked_mlp
from istd.models.ops.norm import layer_norm
from istd.models.ops.window_attention import FastWindowAttention3d, FastWindowAttentionV2

STOCHASTIC_DEPTH = 0.1  # of the last block


def add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], depth: StochasticDepth) -> Tensor:
    """`x + depth(branch(x))`; on a CPU without computing the branch of the samples that stochastic depth drops."""
    if not depth.training or depth.p == 0 or not in_pieces(x):
        return x + depth(branch(x))
    factor = depth(x.new_ones(len(x), *[1] * (x.dim() - 1)))  # of each sample: 0 or 1 / (1 - p)
    kept = factor.flatten().nonzero().flatten()
    if not 0 < len(kept) < len(x):  # with none kept the parameters still get gradients, of 0
        return x + branch(x) * factor
    return x.index_add(0, kept, (branch(x[kept]) * factor[kept]).to(x.dtype))


class SwinBlock3d(SwinTransformerBlock):
    """torchvision's block of Video Swin, [B, T, H, W, C] -> same."""

    attention: ClassVar = FastWindowAttention3d

    def forward(self, x: Tensor) -> Tensor:
        x = add_branch(x, lambda x: self.attn(self.norm1(x)), self.stochastic_depth)
        return add_branch(x, lambda x: chunked_mlp(x, self.mlp, self.norm2), self.stochastic_depth)


class SwinBlockV2(SwinTransformerBlockV2):
    """torchvision's block of Swin V2, [B, H, W, C] -> same."""

    attention: ClassVar = FastWindowAttentionV2

    def forward(self, x: Tensor) -> Tensor:
        x = add_branch(x, lambda x: layer_norm(self.attn(x), self.norm1), self.stochastic_depth)
        return add_branch(x, lambda x: layer_norm(chunked_mlp(x, self.mlp), self.norm2), self.stochastic_depth)


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
