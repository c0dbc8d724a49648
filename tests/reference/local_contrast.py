"""A stand-in network without weights that really finds small bright targets."""

import torch.nn.functional as F
from torch import Tensor

from istd.models import Network


class LocalContrast(Network):
    """Logit = 20 x (pixel of the target frame - mean of its 9 x 9 neighbourhood) - 5."""

    name, in_channels, size_multiple = "datransnet", 1, 32

    def __init__(self, num_frames: int = 1):
        super().__init__()
        self.num_frames = num_frames

    def forward(self, clip: Tensor) -> Tensor:
        target = clip[:, self.num_frames // 2]
        return 20 * (target - F.avg_pool2d(F.pad(target, (4, 4, 4, 4), mode="replicate"), 9, 1)) - 5
