"""Losses on logits. All sums run over the global batch of all processes.

A loss is a function `loss(outputs, batch, progress, **options)` from the network's outputs by name, the batch, and the
progress of the run to a scalar. Its options are its further parameters, annotated with their types, which a recipe sets
by `loss_options`. `per_output` turns a function of a single map of logits and its mask into a loss.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from istd.utils.config import convert_options
from istd.utils.distributed import all_reduce_sum
from istd.utils.errors import InputError
from istd.utils.ranks import world_size

MAIN = "main"  # the name of the output that is the prediction
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
TINY = 1e-6  # keeps divisions and roots of empty maps finite


class LossProgress(NamedTuple):
    """How far a run has come, and the weights of its outputs: what a loss may depend on besides the batch."""

    epoch: int = 0  # completed
    step: int = 0  # done, over all epochs
    epochs: int = 1  # of the run
    steps: int = 1  # of an epoch
    weights: Mapping[str, float] = {MAIN: 1.0}  # of the outputs by name
    aux_weight: float = 0.0  # of outputs that `weights` does not name

    def weight(self, name: str) -> float:
        """The weight of an output."""
        return self.weights.get(name, 1.0 if name == MAIN else self.aux_weight)


LossFunction = Callable[..., Tensor]


def weighted(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Any], progress: LossProgress, loss: LossFunction
) -> Tensor:
    """The weighted sum of `loss(logits, mask)` over the outputs whose weight is not 0.

    Raises `InputError` for an output that is no map of target logits of the masks' shape.
    """
    mask, terms = batch["mask"], []
    for name, logits in outputs.items():
        if not (weight := progress.weight(name)):
            continue
        if logits.shape != mask.shape:
            raise InputError(
                f"the network gave logits of shape {tuple(logits.shape)}, expected {tuple(mask.shape)}, the shape of "
                f"the masks: a single channel of target logits at the size of the clip (output {name})"
            )
        terms.append(weight * loss(logits, mask))
    if not terms:
        raise InputError(f"none of the outputs {', '.join(outputs)} has a weight; see --output_weights")
    return sum(terms)


def per_output(function: Callable[..., Tensor]) -> LossFunction:
    """A loss that adds up `function(logits, mask, **options)` over the outputs that are maps, by their weights."""

    @wraps(function)
    def loss(outputs: Mapping[str, Tensor], batch: Mapping[str, Any], progress: LossProgress, **options: Any) -> Tensor:
        return weighted(outputs, batch, progress, lambda logits, mask: function(logits, mask, **options))

    return loss


def soft_sums(logits: Tensor, mask: Tensor) -> Tensor:
    """Intersection, prediction and target, soft and summed over the whole batch, [3]."""
    probability = logits.sigmoid()
    return all_reduce_sum(torch.stack([(probability * mask).sum(), probability.sum(), mask.sum()]))


def soft_iou_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - (I + 1) / (U + 1) with I, U soft intersection and union summed over the whole batch (DATransNet's loss).

    logits, mask: [B, 1, H, W], the mask 0 or 1.
    """
    intersection, predicted, target = soft_sums(logits, mask)
    return 1 - (intersection + 1) / (predicted + target - intersection + 1)


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), alpha 0.25 and gamma 2: mean over a sample's pixels, summed over the batch."""
    from torchvision.ops import sigmoid_focal_loss  # imported here, since torchvision takes as long as PyTorch

    return all_reduce_sum(sigmoid_focal_loss(logits, mask, FOCAL_ALPHA, FOCAL_GAMMA).flatten(1).mean(1).sum())


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - (2 sum(p g) + 1) / (sum p + sum g + 1) of each sample, summed over the batch."""
    probability, mask = logits.sigmoid().flatten(1), mask.flatten(1)
    ratio = (2 * (probability * mask).sum(1) + 1) / (probability.sum(1) + mask.sum(1) + 1)
    return all_reduce_sum((1 - ratio).sum())


def focal_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal + dice, each summed over the batch (SGMP-UNet's loss)."""
    return focal_loss(logits, mask) + dice_loss(logits, mask)


def bce_soft_iou_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy (mean over all pixels of the batch) + soft IoU.

    While the network says 'nothing' everywhere, the soft IoU has hardly a gradient; the cross-entropy has.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask)  # every process has an equal share of the pixels
    return all_reduce_sum(cross_entropy) / world_size() + soft_iou_loss(logits, mask)


def focal_tversky_loss(
    logits: Tensor, mask: Tensor, alpha: float = 0.7, beta: float = 0.3, gamma: float = 4 / 3
) -> Tensor:
    """(1 - TI)^(1 / gamma), TI = (TP + 1) / (TP + alpha FN + beta FP + 1), soft and summed over the whole batch.

    Abraham and Khan 2019, equations 3 and 4: alpha above beta weighs missed pixels more than false ones.
    """
    hit, predicted, target = soft_sums(logits, mask)
    index = (hit + 1) / (hit + alpha * (target - hit) + beta * (predicted - hit) + 1)
    return (1 - index).clamp(min=TINY) ** (1 / gamma)  # the root's slope at 0 is infinite


def sls_loss(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Any], progress: LossProgress, warm_epochs: int = 5
) -> Tensor:
    """MSHNet's scale and location sensitive loss (Liu et al., CVPR 2024, equations 2 to 5), a mean over samples.

    In the first `warm_epochs` epochs it is 1 - IoU. After them IoU is weighted by how far the areas agree, and the
    distance of the centroids in polar coordinates is added. Areas and centroids are soft. A sample without a target has
    no centroid, its IoU is 0 whatever is predicted, and so it has the loss 1 and no gradient.

    The released code departs from the paper: in place of a centroid it takes the mean of coordinate times probability
    over all pixels, coordinates divided by the image's sides, so that its distances also depend on the areas; it adds
    the location term for samples without a target; and it warms up for an epoch more than its option says.
    """
    warm = progress.epoch < warm_epochs
    return weighted(outputs, batch, progress, lambda logits, mask: sls_of_map(logits, mask, warm))


def sls_of_map(logits: Tensor, mask: Tensor, warm: bool) -> Tensor:
    """The loss of a map of logits [B, 1, H, W]; `warm`: 1 - IoU alone."""
    probability = logits.sigmoid()
    intersection = (probability * mask).sum(dim=(1, 2, 3))
    predicted, target = probability.sum(dim=(1, 2, 3)), mask.sum(dim=(1, 2, 3))
    iou = intersection / (predicted + target - intersection + TINY)
    if warm:
        losses = 1 - iou
    else:
        variance = ((predicted - target) / 2).square()
        weight = (torch.minimum(predicted, target) + variance) / (torch.maximum(predicted, target) + variance + TINY)
        losses = 1 - weight * iou + torch.where(target > 0, location_loss(probability, mask), 0.0)
    return all_reduce_sum(losses.sum()) / (len(losses) * world_size())


def location_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - min(d) / max(d) + 4 / pi^2 (difference of angles)^2 of the centroids of probability and mask, [B].

    A centroid is the average of the pixels' coordinates, from 0 at the first row and column, weighted by the map; d and
    the angle are its polar coordinates.
    """
    polar = []
    for weights in (probability, mask):
        mass = weights.sum(dim=(1, 2, 3)) + TINY
        rows = torch.arange(weights.shape[2], dtype=weights.dtype, device=weights.device)
        columns = torch.arange(weights.shape[3], dtype=weights.dtype, device=weights.device)
        y = (weights.sum(dim=(1, 3)) * rows).sum(1) / mass
        x = (weights.sum(dim=(1, 2)) * columns).sum(1) / mass
        polar.append(((x.square() + y.square() + TINY).sqrt(), torch.atan2(y + TINY, x + TINY)))
    (distance, angle), (true_distance, true_angle) = polar
    ratio = torch.minimum(distance, true_distance) / torch.maximum(distance, true_distance)
    return 1 - ratio + 4 / math.pi**2 * (angle - true_angle).square()


class Loss(NamedTuple):
    """A loss, whether it is a sum over the batch (otherwise it is a mean), and whether it takes all outputs.

    If it does, the network computes auxiliary outputs whatever their weights, and validation reports no loss.
    """

    function: LossFunction
    summed: bool = False
    all_outputs: bool = False


LOSSES = {
    "soft_iou": Loss(per_output(soft_iou_loss)),
    "focal_dice": Loss(per_output(focal_dice_loss), summed=True),
    "bce_soft_iou": Loss(per_output(bce_soft_iou_loss)),
    "focal_tversky": Loss(per_output(focal_tversky_loss)),
    "sls": Loss(sls_loss),
}


def needs_aux(name: str, progress: LossProgress) -> bool:
    """Whether the loss called `name` uses auxiliary outputs, given their weights in `progress`."""
    weighs = progress.aux_weight or any(weight for output, weight in progress.weights.items() if output != MAIN)
    return bool(weighs) or LOSSES[name].all_outputs


def check_loss_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert the options of a loss, which may be text, to the types in its signature; `InputError` for others.

    The options of a loss are its parameters with defaults.
    """
    parameters = inspect.signature(LOSSES[name].function, eval_str=True).parameters
    known = {option: value for option, value in parameters.items() if value.default is not value.empty}
    return convert_options(f"loss {name}", options, known)


def named_outputs(outputs: Tensor | list[Tensor] | tuple[Tensor, ...] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's outputs by name: a map is the main output; a list consists of main, aux1, aux2, ...

    Raises `InputError` for a mapping without "main".
    """
    if isinstance(outputs, Tensor):
        return {MAIN: outputs}
    if isinstance(outputs, list | tuple):
        return {f"aux{place}" if place else MAIN: output for place, output in enumerate(outputs)}
    if MAIN not in outputs:
        raise InputError(f"the network's outputs are {', '.join(outputs)}, expected an output {MAIN!r}")
    return dict(outputs)


def total_loss(
    name: str,
    outputs: Tensor | list[Tensor] | Mapping[str, Tensor],
    batch: Mapping[str, Any],
    progress: LossProgress,
    options: Mapping[str, Any] | None = None,
    accumulation_steps: int = 1,
) -> Tensor:
    """The loss called `name`, in float32 at least, of the outputs of a network (see `named_outputs`).

    With several gradient accumulation steps, this is a step's share of the loss: means over the batch are divided by
    the number of steps, so that the shares and their gradients add up to those of the batch.
    """
    row, outputs = LOSSES[name], named_outputs(outputs)
    if unknown := [output for output, weight in progress.weights.items() if weight and output not in outputs]:
        raise InputError(
            f"output_weights names {', '.join(unknown)}, but the network's outputs are {', '.join(outputs)}"
        )
    with torch.autocast(batch["mask"].device.type, enabled=False):
        precise = {
            key: value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
            for key, value in outputs.items()
        }
        total = row.function(precise, batch, progress, **(options or {}))
    return total if row.summed else total / accumulation_steps
