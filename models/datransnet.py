"""DATransNet, the single-frame network (IEEE GRSL 2025, doi 10.1109/LGRS.2025.3557021).

A five-level residual U-Net whose skips pass through gradient transformers and whose deepest level passes through a
global feature module. Same results as the published network, in channels-last memory, and on a CPU
without its 8C surrounds.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.models.network import PRIOR_LOGIT, Network
from istd.models.ops.conv import conv_norm
from istd.models.ops.gradient_attention import attend_to_surround
from istd.models.weights import rename_weights, to_zero_based
from istd.utils.errors import InputError

LEAKY_SLOPE = 0.01
SCORE_EPS = 1e-5  # of the instance normalisation of a gradient transformer's scores


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, [B, in, H, W] -> [B, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        changes = in_channels != out_channels
        self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 1) if changes else None
        self.shortcut_norm = nn.BatchNorm2d(out_channels) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu_(conv_norm(x, self.conv1, self.norm1), LEAKY_SLOPE)
        out = conv_norm(out, self.conv2, self.norm2)
        if self.shortcut_conv is not None:
            x = conv_norm(x, self.shortcut_conv, self.shortcut_norm)
        return F.leaky_relu_(out.add_(x), LEAKY_SLOPE)


class GradientTransformer(nn.Module):
    """DATrans: channel attention from each pixel to the gradients around it.

    The keys and values are 1x1 convolutions of the surround: the eight neighbours at a distance, minus the centre. The
    module `models.ops.gradient_attention` computes them.

    Args:
        channels: of the input and the output.
        width: of the attended values, over all shifts.
        shifts: distances of the surrounds; also the number of heads.
        side: side in pixels of this level at the image size the network was built for. The scores are divided by it.
    """

    def __init__(self, channels: int, width: int, shifts: tuple[int, ...], side: float):
        super().__init__()
        hidden = width // len(shifts)
        self.shifts, self.side = shifts, side
        self.query = nn.ModuleList(nn.Conv2d(channels, hidden, 1, bias=False) for _ in shifts)
        self.key = nn.ModuleList(nn.Conv2d(8 * channels, 8 * hidden, 1, bias=False) for _ in shifts)
        self.value = nn.ModuleList(nn.Conv2d(8 * channels, 8 * hidden, 1, bias=False) for _ in shifts)
        self.project = nn.Conv2d(width, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        # channel-major: channel 0 of every shift, then channel 1, ...; heads are consecutive runs of that order
        query = torch.stack([conv.weight for conv in self.query], dim=1).flatten(0, 1)  # [width, C, 1, 1]
        return self.norm(
            attend_to_surround(x, query, self.key, self.value, self.project, self.shifts, self._normalise)
        ).relu_()

    def _normalise(self, scores: Tensor) -> Tensor:
        """Instance norm of each head's scores, and softmax over its keys; `attend_to_surround` gives the shapes."""
        scores = scores / self.side
        variance, mean = torch.var_mean(scores, dim=(2, 3, 4), correction=0, keepdim=True)
        scores = (scores - mean) * (variance + SCORE_EPS).rsqrt()
        return scores.flatten(3).softmax(dim=-1).view_as(scores)


class NonLocalBlock(nn.Module):
    """Attention of every position to all positions of the map pooled by 2 (no residual), [B, C, H, W] -> same."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.project = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.key(x), 2).flatten(2).transpose(1, 2)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)
        out = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
        out = out.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous(memory_format=torch.channels_last)
        return conv_norm(out, self.project, self.norm)


class GlobalFeatureModule(nn.Module):
    """GFEM: non-local attention beside a pooled branch that its global average gates, [B, C, H, W] -> same."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.non_local = NonLocalBlock(channels, inner)
        self.gate = nn.Conv2d(channels, channels, 1, bias=False)
        self.mix_non_local = nn.Conv2d(channels, channels, 1)
        self.mix_pooled = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.non_local(x)
        gate = self.gate(spatial.mean(dim=(2, 3), keepdim=True)).sigmoid()
        pooled = upsample(F.max_pool2d(x, 2) * gate)
        return self.out(self.mix_non_local(spatial) + self.mix_pooled(pooled))


class DecoderLevel(nn.Module):
    """Join the deeper map [B, C, H/2, W/2], gated by the encoder's, with the transformed skip [B, C, H, W]."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.conv1 = nn.Conv2d(2 * channels, out_channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, deep: Tensor, encoded: Tensor, transformed: Tensor) -> Tensor:
        gated = upsample(deep) * self.gate(encoded).sigmoid_()
        out = conv_norm(torch.cat([transformed, gated], dim=1), self.conv1, self.norm1).relu_()
        return conv_norm(out, self.conv2, self.norm2).relu_()


class OutputHead(nn.Module):
    """Inception depthwise convolution (a quarter of the channels each: as is, 3x3, 1x11, 11x1), then 1x1 to logits."""

    def __init__(self, channels: int):
        super().__init__()
        self.quarter = quarter = channels // 4
        self.square = nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter)
        self.wide = nn.Conv2d(quarter, quarter, (1, 11), padding=(0, 5), groups=quarter)
        self.high = nn.Conv2d(quarter, quarter, (11, 1), padding=(5, 0), groups=quarter)
        self.logit = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        same, square, wide, high = x.split(self.quarter, dim=1)
        return self.logit(torch.cat([same, self.square(square), self.wide(wide), self.high(high)], dim=1))


def upsample(x: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class DATransNet(Network):
    """Logits of small targets in one grey image.

    Args:
        image_size: side in pixels of the (square) images that the weights are for, 256 for NUDT-SIRST and 512 for
            IRSTD-1K. Attention scores are divided by it; other sizes of input remain possible.
        width: channels of the first level.
    """

    name = "datransnet"
    size_multiple = 32

    def __init__(self, image_size: int = 256, width: int = 16):
        super().__init__()
        if image_size < 1:
            raise InputError(f"datransnet takes an image_size of at least 1 pixel; got {image_size}")
        if width < 4 or width % 4:
            raise InputError(f"datransnet takes a width that is a multiple of 4; got {width}")
        c = width
        self.encoders = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise((1, c, 2 * c, 4 * c, 8 * c, 8 * c)))
        levels = [(c, c, (1, 3)), (2 * c, 2 * c, (1, 3)), (4 * c, 2 * c, (1, 3)), (8 * c, 2 * c, (1,))]
        self.transformers = nn.ModuleList(
            GradientTransformer(*level, side=image_size / 2**number) for number, level in enumerate(levels)
        )
        self.global_features = GlobalFeatureModule(8 * c, c)
        channels = [(c, c), (2 * c, c), (4 * c, 2 * c), (8 * c, 4 * c)]
        self.decoders = nn.ModuleList(DecoderLevel(*pair) for pair in channels)
        self.head = OutputHead(c)
        self.to(memory_format=torch.channels_last)

    def init_low_prior(self) -> None:
        """Set the output bias to PRIOR_LOGIT."""
        nn.init.constant_(self.head.logit.bias, PRIOR_LOGIT)

    @staticmethod
    def published_options(weights: dict[str, Tensor]) -> dict | None:
        """The width, if these weights are those of a published checkpoint; they do not tell the image size."""
        query = weights.get("contras1.query_convs.0.weight")  # [hidden, width, 1, 1]
        return None if query is None or query.dim() < 2 else {"width": query.shape[1]}

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint's weights under the names of this module."""
        return rename_weights(weights, PUBLISHED_NAMES, PUBLISHED_UNUSED)

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """clip [B, 1, 1, H, W], grey in 0..1, to logits [B, 1, H, W]; `with_aux` puts them into a list."""
        self.check_clip(clip)
        # a single channel needs the strides of channels-last, or the first shortcut comes out channels-first
        x = clip[:, 0, 0].contiguous().unsqueeze(-1).movedim(-1, 1)  # [B, 1, H, W]
        skips = []  # of the levels at 1, 1/2, 1/4, 1/8 of the size
        for encoder in self.encoders[:-1]:
            x = encoder(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.global_features(self.encoders[-1](x))
        for level in reversed(range(len(skips))):
            x = self.decoders[level](x, skips[level], self.transformers[level](skips[level]))
        logits = self.head(x)
        return [logits] if with_aux else logits


# Parameter names of the published checkpoints -> names here, for `rename_weights`.
PUBLISHED_NAMES = (
    (r"^inc\.0\.", "encoders.0."),
    (r"^encoder([1-4])\.0\.", r"encoders.\1."),
    (r"^contras([1-4])\.", to_zero_based("transformers.", ".")),
    (r"^decoder([1-4])\.", to_zero_based("decoders.", ".")),
    # residual blocks
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.shortcut\.0\.", ".shortcut_conv."),
    (r"\.shortcut\.1\.", ".shortcut_norm."),
    # gradient transformers
    (r"\.(query|key|value)_convs\.", r".\1."),
    (r"^(transformers\.\d)\.out_conv\.0\.", r"\1.project."),
    (r"^(transformers\.\d)\.out_conv\.1\.", r"\1.norm."),
    # global features
    (r"^GFEM\.sp\.theta\.", "global_features.non_local.query."),
    (r"^GFEM\.sp\.phi\.0\.", "global_features.non_local.key."),
    (r"^GFEM\.sp\.g\.0\.", "global_features.non_local.value."),
    (r"^GFEM\.sp\.W\.0\.", "global_features.non_local.project."),
    (r"^GFEM\.sp\.W\.1\.", "global_features.non_local.norm."),
    (r"^GFEM\.ca\.fc1\.", "global_features.gate."),
    (r"^GFEM\.tra_conv_1\.", "global_features.mix_non_local."),
    (r"^GFEM\.tra_conv_2\.", "global_features.mix_pooled."),
    (r"^GFEM\.out_conv\.", "global_features.out."),
    # decoder and output
    (r"\.nConvs\.(\d)\.(conv|norm)\.", lambda match: f".{match[2]}{int(match[1]) + 1}."),
    (r"\.sattn\.0\.", ".gate."),
    (r"^outc\.0\.dwconv_hw\.", "head.square."),
    (r"^outc\.0\.dwconv_w\.", "head.wide."),
    (r"^outc\.0\.dwconv_h\.", "head.high."),
    (r"^outc\.1\.", "head.logit."),
)
# The published network has a fifth encoder and decoder that its forward pass never calls.
PUBLISHED_UNUSED = ("encoder5.", "decoder5.")
