"""Score maps and masks of any kind, checked and converted to numpy images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.names import counted

ROUNDING = 1e-5  # by which probabilities may lie outside 0..1, as those of resized maps do


class Image(NamedTuple):
    """An image to measure: score float32 or float64 [H, W], mask bool [H, W], and its names, None if unknown."""

    score: np.ndarray
    mask: np.ndarray
    sequence: str | None
    frame: str | None


def to_numpy(array) -> np.ndarray:
    """An array, or a tensor on any device, as numpy: float32 if that represents its type exactly, else float64."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() and array.itemsize < 4 else array.numpy()
    array = np.asarray(array)
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def images(score, mask, sequence=None, frame=None, scale: str = "probability") -> Iterator[Image]:
    """Yield the images of an update.

    score and mask are [H, W], [B, H, W] or [B, 1, H, W], arrays or tensors of one shape; mask is target where > 0, so
    that 0/1, 0/254 and 0/255 are equivalent. sequence and frame are names, one for each image of a batch.
    Raises `InputError` for shapes that differ, and as `checked_scores` does.
    """
    scores, masks = to_numpy(score), to_numpy(mask)
    sequences, frames = ([names] if isinstance(names, str) else names for names in (sequence, frame))
    name = "/".join(str(names[0]) for names in (sequences, frames) if names and names[0] is not None) or "the image"
    if scores.shape != masks.shape:
        sizes = f"the score map is {_size(scores)} and the mask {_size(masks)}"
        raise InputError(f"{name}: {sizes}; resize the map to the mask's size")
    if scores.ndim == 4 and scores.shape[1] == 1:
        scores, masks = scores[:, 0], masks[:, 0]
    elif scores.ndim == 2:
        scores, masks = scores[None], masks[None]
    if scores.ndim != 3 or 0 in scores.shape[1:]:
        raise InputError(f"{name}: the score map is {_size(scores)}; expected [H, W] or a batch [B, 1, H, W]")
    for names in (sequences, frames):
        if names is not None and len(names) != len(scores):
            counts = f"{counted(len(names), 'name')} for {counted(len(scores), 'image')}"
            raise InputError(f"{name}: {counts}; expected a name for each image")
    unnamed = [None] * len(scores)
    for image_score, image_mask, *names in zip(scores, masks, sequences or unnamed, frames or unnamed, strict=True):
        image_score = checked_scores(image_score, name, scale)
        yield Image(np.ascontiguousarray(image_score), np.ascontiguousarray(image_mask > 0), *names)


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a single number"


def checked_scores(score: np.ndarray, name: str, scale: str) -> np.ndarray:
    """A score map, clipped to 0..1 if `scale` is "probability".

    Raises `InputError` for NaN, and for probabilities that lie outside 0..1 by more than `ROUNDING`.
    """
    low, high = score.min(), score.max()
    if np.isnan(low):  # min and max of an array with NaN are NaN
        raise InputError(f"{name}: the score map holds NaN; expected numbers: check the network that produced it")
    if scale != "probability" or (low >= 0 and high <= 1):
        return score
    if low < -ROUNDING or high > 1 + ROUNDING:
        ends = " to ".join(str(end).removesuffix(".0") for end in (low, high))  # all digits
        problem = f"scores run from {ends}, expected probabilities in 0..1"
        logits = "logits need a sigmoid first (evaluate: --logits); " if low < 0 else ""
        raise InputError(f"{name}: {problem}; {logits}scale other responses to 0..1 (evaluate: --normalize)")
    return score.clip(0, 1)
