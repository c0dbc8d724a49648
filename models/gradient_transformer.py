"""The gradient transformer of DATransNet, whose surround of 8C channels is folded into 3x3 convolutions."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.ops.gradient_attention import KeyProducts, convolve_each, surround_kernel
from models.ops.norms import conv_norm

NORM_EPS = 1e-12  # of the L2 normalisation of queries and keys
SCORE_EPS = 1e-5  # of the instance normalisation of the scores


class GradientTransformer(nn.Module):
    """Channel attention from each pixel to the gradients around it (DATransNet, "DATrans").

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

    def attention(self, query: Tensor, padded: Tensor) -> Tensor:
        """Attention of every query to the keys of its head: [B, heads, hidden, shifts, keys of a shift]."""
        heads = len(self.shifts)
        kernels = torch.stack([surround_kernel(conv.weight.flatten(1)) for conv in self.key]).to(query.dtype)
        with torch.autocast(query.device.type, enabled=False):
            query_energy, products, key_energy = KeyProducts.apply(query, padded, kernels, self.shifts)
            query_scale = query_energy.clamp_min(NORM_EPS**2).rsqrt() / self.side
            key_scale = key_energy.clamp_min(NORM_EPS**2).rsqrt()
            scores = products * query_scale[None, :, :, None] * key_scale[:, :, None]
            # a head's queries meet that head's keys only
            scores = rearrange(scores, "s b (g q) (h k) -> g h b q s k", g=heads, h=heads)
            scores = torch.stack([scores[head, head] for head in range(heads)], dim=1)
            variance, mean = torch.var_mean(scores, dim=(2, 3, 4), correction=0, keepdim=True)
            scores = (scores - mean) * (variance + SCORE_EPS).rsqrt()
            return scores.flatten(3).softmax(dim=-1).view_as(scores)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        heads = len(self.shifts)
        # channel-major: channel 0 of every shift, then channel 1, ...; heads are consecutive runs of that order
        query = F.conv2d(x, torch.stack([conv.weight for conv in self.query], dim=1).flatten(0, 1))
        with torch.autocast(x.device.type, enabled=False):  # it would pad in float32
            padded = F.pad(x.to(query.dtype), (max(self.shifts),) * 4, mode="reflect")
        attention = self.attention(query, padded)
        values = torch.stack([conv.weight.flatten(1) for conv in self.value])
        values = rearrange(values, "s (h k) c -> h s k c", h=heads).to(attention.dtype)
        with torch.autocast(x.device.type, enabled=False):
            folded = torch.einsum("bhqsk, hskc -> sbhqc", attention, values).flatten(2, 3)  # [S, B, width, 8C]
            project = self.project.weight
            if fold_projection := project.shape[0] <= project.shape[1]:  # then the kernel does not grow
                folded = project.flatten(1) @ folded
            kernels = [surround_kernel(taps).to(padded.dtype) for taps in folded]
            out = convolve_each(padded, kernels, self.shifts)
        if fold_projection:
            return self.norm(out).relu_()
        return conv_norm(out, self.project, self.norm).relu_()
