"""The gradient transformer of DATransNet ("DATrans")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.gradient_attention import attend_surround, pad_for_surround, surround_similarities

SCORE_EPS = 1e-5  # of the instance normalisation of the scores


class GradientTransformer(nn.Module):
    """Channel attention from each pixel to the gradients around it.

    The keys and values are 1x1 convolutions of the surround: the eight neighbours at a distance, minus the centre. It
    is folded into small convolutions in `models.ops.gradient_attention` and never built.

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
        query = F.conv2d(x, torch.stack([conv.weight for conv in self.query], dim=1).flatten(0, 1))  # [B, width, H, W]
        padded = pad_for_surround(x.to(query.dtype), self.shifts)
        scores = surround_similarities(query, padded, self.key, self.shifts) / self.side
        variance, mean = torch.var_mean(scores, dim=(2, 3, 4), correction=0, keepdim=True)
        scores = (scores - mean) * (variance + SCORE_EPS).rsqrt()
        attention = scores.flatten(3).softmax(dim=-1).view_as(scores)  # [B, heads, hidden, shifts, keys of a shift]
        return self.norm(attend_surround(attention, padded, self.value, self.project, self.shifts)).relu_()
