"""Steps on clip and mask together. Frames are uint8, or float32 in 0..1, [T, H, W]; masks bool [H, W]."""

from functools import lru_cache

import cv2
import numpy as np
import scipy
import torch

Sample = tuple[torch.Tensor, torch.Tensor]  # clip and mask
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONTRAST_WINDOW = 21
MIN_CONTRAST = 1e-3  # an empty frame stays empty


def to_float(frames: np.ndarray) -> np.ndarray:
    """Frames as float32 in 0..1."""
    return frames.astype(np.float32) / np.float32(255) if frames.dtype == np.uint8 else frames


def network_sample(clip: np.ndarray, mask: np.ndarray, channels: int, normalise: bool = True) -> Sample:
    """Clip float32 [T, H, W] -> [T, C, H, W], replicated for three channels; mask bool -> float 0/1 [1, h, w].

    With `normalise`, three channels of grey in 0..1 are normalised by ImageNet's mean and std; local contrast is not.
    """
    grey = torch.from_numpy(np.ascontiguousarray(clip))[:, None]
    target = torch.from_numpy(np.ascontiguousarray(mask)).float()[None]
    if channels == 1 or not normalise:
        return (grey if channels == 1 else grey.repeat(1, channels, 1, 1)), target
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.addcmul(-mean / std, grey, 1 / std), target


def local_contrast(clip: np.ndarray) -> np.ndarray:
    """Each frame of a clip float32 [T, H, W] minus its local mean (21 x 21), over the difference's standard deviation.

    Clouds and horizons, which outshine any target, vanish; a target counts by how far it stands out of its frame.
    """
    contrast = np.empty(clip.shape, np.float32)
    for frame, out in zip(clip, contrast, strict=True):
        around = cv2.blur(frame, (CONTRAST_WINDOW, CONTRAST_WINDOW), borderType=cv2.BORDER_REFLECT_101)
        np.subtract(frame, around, out=out)
        out /= max(float(out.std()), MIN_CONTRAST)
    return contrast


@lru_cache(maxsize=256)
def linear_weights(length: int, new_length: int) -> "scipy.sparse.csr_array":
    """Weights [new_length, length] of the antialiased bilinear resize along one side (Pillow's and torchvision's)."""
    scale = length / new_length
    reach = max(scale, 1.0)
    centre = (np.arange(new_length) + 0.5) * scale
    first = np.floor(centre - reach).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    weights = np.maximum(0, 1 - np.abs(taps + 0.5 - centre[:, None]) / reach)
    weights[(taps < 0) | (taps >= length)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    rows, columns = np.nonzero(weights)
    values = weights[rows, columns].astype(np.float32)
    return scipy.sparse.csr_array((values, (rows, taps[rows, columns])), shape=(new_length, length))


def nearest_indices(length: int, new_length: int) -> np.ndarray:
    """Index of the source pixel of each pixel along one side of a nearest-neighbour resize [new_length]."""
    return ((np.arange(new_length) + 0.5) * (length / new_length)).astype(int)


def resample(frames: np.ndarray, rows: "scipy.sparse.csr_array", columns: "scipy.sparse.csr_array") -> np.ndarray:
    """Apply resize weights [H', H] and [W', W] to frames float32 [T, H, W]: [T, H', W'].

    Chained resizes and crops are products of such weights, so that any chain costs one pass and rounds nowhere.
    """
    count, height, width = frames.shape
    tall = rows @ np.ascontiguousarray(frames.transpose(1, 0, 2)).reshape(height, count * width)  # [H', T W]
    tall = tall.reshape(-1, count, width).transpose(2, 1, 0).reshape(width, -1)  # [W, T H']
    return (columns @ tall).reshape(columns.shape[0], count, -1).transpose(1, 2, 0)


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize of frames [T, H, W] to float32 [T, height, width]; no change where sizes agree."""
    clip = to_float(frames)
    if clip.shape[1:] == (height, width):
        return clip
    return resample(clip, linear_weights(clip.shape[1], height), linear_weights(clip.shape[2], width))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest-neighbour resize of a mask [H, W]; no change where sizes agree."""
    if mask.shape == (height, width):
        return mask
    return mask[np.ix_(nearest_indices(mask.shape[0], height), nearest_indices(mask.shape[1], width))]


def pad_to(frames: np.ndarray, side: int) -> np.ndarray:
    """Continue frames or a mask [..., H, W] by reflection, equally at opposite edges, to at least `side` x `side`."""
    lacking = [max(0, side - length) for length in frames.shape[-2:]]
    if not any(lacking):
        return frames
    edges = [(total // 2, total - total // 2) for total in lacking]
    return np.pad(frames, [(0, 0)] * (frames.ndim - 2) + edges, mode="reflect")


def resize_crop(clip: np.ndarray, size: int) -> np.ndarray:
    """Plain bilinear resize of frames float32 [T, h, w] to [T, size, size], for enlarging (it does not antialias)."""
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in clip])


def crop_around(
    mask: np.ndarray | None, shape: tuple[int, int], side: int, margin: int, random: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a random window of `side` x `side` in an image of `shape`.

    If the mask has a target, the window contains a random target pixel, if possible `margin` away from its edge.
    """
    low, high = np.zeros(2, int), np.subtract(shape, side)
    pixels = np.flatnonzero(mask) if mask is not None else ()
    if len(pixels):
        margin = min(margin, (side - 1) // 2)
        place = np.array(divmod(int(random.choice(pixels)), shape[1]))
        low, high = (place - side + 1 + margin).clip(0, high), (place - margin).clip(0, high)
    return int(random.integers(low[0], high[0] + 1)), int(random.integers(low[1], high[1] + 1))


def short_side_size(height: int, width: int, short: int, long_limit: int | None = None) -> tuple[int, int]:
    """Size (H, W) with the short side at `short`, less where the long side would exceed `long_limit` (DETR's rule)."""
    smaller, larger = min(height, width), max(height, width)
    if long_limit is not None and larger / smaller * short > long_limit:
        short = round(long_limit * smaller / larger)
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
