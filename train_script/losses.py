"""Losses on logits. All sums run over the whole global batch, on however many processes it lies."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from istd.utils.distributed import all_reduce_sum, world_size
from istd.utils.errors import InputError

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def soft_iou_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - (I + 1) / (U + 1) with I, U soft intersection and union summed over the whole batch (DATransNet's loss).

    logits, mask: [B, 1, H, W], the mask 0 or 1.
    """
    probability = logits.sigmoid()
    sums = torch.stack([(probability * mask).sum(), probability.sum(), mask.sum()])
    intersection, predicted, target = all_reduce_sum(sums)
    return 1 - (intersection + 1) / (predicted + target - intersection + 1)


def focal_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal loss (Lin et al. 2017), alpha 0.25 and gamma 2: mean over a sample's pixels, summed over the batch."""
    return all_reduce_sum(sigmoid_focal_loss(logits, mask, FOCAL_ALPHA, FOCAL_GAMMA).flatten(1).mean(1).sum())


def dice_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(p g) + 1) / (sum p + sum g + 1) of each sample, summed over the batch."""
    probability, mask = logits.sigmoid().flatten(1), mask.flatten(1)
    ratio = (2 * (probability * mask).sum(1) + 1) / (probability.sum(1) + mask.sum(1) + 1)
    return all_reduce_sum((1 - ratio).sum())


def focal_dice_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal + dice, each summed over the batch (SGMP-UNet's loss)."""
    return focal_loss(logits, mask) + dice_loss(logits, mask)


def bce_soft_iou_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (mean over all pixels of the batch) + soft IoU.

    While the network says 'nothing' everywhere, the soft IoU has hardly a gradient; the cross-entropy has.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask)  # every process has an equal share of the pixels
    return all_reduce_sum(cross_entropy) / world_size() + soft_iou_loss(logits, mask)


class Loss(NamedTuple):
    """A loss of logits and masks [B, 1, H, W], and whether it is a sum over the batch (otherwise it is a mean)."""

    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    summed: bool = False


LOSSES = {
    "soft_iou": Loss(soft_iou_loss),
    "focal_dice": Loss(focal_dice_loss, summed=True),
    "bce_soft_iou": Loss(bce_soft_iou_loss),
}


def total_loss(
    name: str, outputs: Sequence[torch.Tensor], mask: torch.Tensor, aux_weight: float, accumulation_steps: int = 1
) -> torch.Tensor:
    """Loss of the main output plus `aux_weight` times that of each auxiliary one, in float32 at least.

    outputs: logits [B, 1, H, W], main first. With several gradient accumulation steps, this is the loss of one of them:
    means over the batch are divided by their number, so that losses and gradients add up to those of the batch.
    """
    if wrong := [tuple(logits.shape) for logits in outputs if logits.shape != mask.shape]:
        raise InputError(
            f"the network gave logits of shape {wrong[0]}, expected {tuple(mask.shape)}, the shape of the masks: a "
            "single channel of target logits at the size of the clip"
        )
    loss, summed = LOSSES[name]
    with torch.autocast(mask.device.type, enabled=False):
        precise = [logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in outputs]
        total = loss(precise[0], mask)
        for logits in precise[1:]:
            total = total + aux_weight * loss(logits, mask)
    return total if summed else total / accumulation_steps
