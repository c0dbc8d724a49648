"""Faults of sensors and files: fixed offsets, noise, bad pixels, coarse grey levels, changing gain, JPEG.

The renderers draw their sensors with the first functions; `record_clip` passes a clip through the chain `FAULTS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

FAULT_SHARE = 0.25  # of the sensors that have a kind of fault, for every kind
NOISE = 0.03  # standard deviation of the noise of the plain renderer and of `datasets.dim`
HOT = (4, 8)  # offset of pixels that are too hot, in standard deviations of this noise
BLINK_SHARE = 0.25  # of the bad pixels of `record_clip`: they are bad in half of the frames


def log_uniform(random: Generator, low: float, high: float) -> float:
    """A random number in low..high whose logarithm is uniformly distributed."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def draw_noise(shape: tuple[int, ...], sigma: float, random: Generator, blur: float = 0.0) -> np.ndarray:
    """Gaussian noise float32 of deviation `sigma`; `blur`: sigma in px, as of noise [H, W] in an enlarged picture."""
    values = random.standard_normal(shape, dtype=np.float32)
    if blur:
        values = cv2.GaussianBlur(values, (0, 0), blur)
        values /= values.std()
    return values * np.float32(sigma)


def draw_offsets(count: int, sigma: float, random: Generator) -> np.ndarray:
    """Fixed offsets float32 [count] of columns or rows: Gaussian of deviation `sigma`."""
    return random.normal(0, sigma, count).astype(np.float32)


def draw_channel_offsets(width: int, span: float, random: Generator) -> np.ndarray:
    """Offsets float32 [width] in 0..`span` of columns that 2, 4 or 8 readout channels read in turn."""
    channels = int(random.choice((2, 4, 8)))
    return random.uniform(0, span, channels).astype(np.float32)[np.arange(width) % channels]


class BadPixels(NamedTuple):
    """Places (rows [N], columns [N]) whose values v become gain [N] x v + offset [N]."""

    places: tuple[np.ndarray, np.ndarray]
    gain: np.ndarray
    offset: np.ndarray

    def spoil(self, frames: np.ndarray, when: np.ndarray | bool = True) -> None:
        """Spoil frames float32 [T, H, W] in place; `when`: in which frames each pixel is bad, bool [T, N]."""
        rows, columns = self.places
        values = frames[:, rows, columns]
        frames[:, rows, columns] = np.where(when, values * self.gain + self.offset, values)


def draw_bad_pixels(shape: tuple[int, int], share: float, random: Generator) -> BadPixels:
    """About a `share` of the pixels of a sensor: a third dead, a third stuck at full, a third too hot."""
    count = int(random.binomial(shape[0] * shape[1], share))
    places = tuple(random.integers((0, 0), shape, (count, 2)).T)
    kind = random.integers(3, size=count)
    hot = random.uniform(*HOT, count) * NOISE
    offset = np.choose(kind, (np.zeros(count), np.ones(count), hot)).astype(np.float32)
    return BadPixels(places, (kind == 2).astype(np.float32), offset)


# Every fault maps a clip float32 [T, H, W] in 0..1 to a new clip, which may leave 0..1, given the mask bool [H, W] of
# its targets, a strength, and a random generator. Faults are fixed over the frames unless they say otherwise.


def add_column_offsets(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Stripes: offsets of the columns, of deviation `strength`."""
    return clip + draw_offsets(clip.shape[2], strength, random)


def add_row_offsets(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Bands: offsets of the rows, of deviation `strength`."""
    return clip + draw_offsets(clip.shape[1], strength, random)[:, None]


def add_channel_offsets(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Periodic stripes: offsets of the readout channels, in 0..`strength`."""
    return clip + draw_channel_offsets(clip.shape[2], strength, random)


def add_noise(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Noise of deviation `strength`, different in every frame."""
    return clip + draw_noise(clip.shape, strength, random)


def spoil_pixels(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Dead, stuck, and hot pixels, a `strength` of all, some of which blink. Pixels of targets are left alone."""
    spoiled, pixels = clip.copy(), draw_bad_pixels(mask.shape, strength, random)
    steady = random.random(len(pixels.gain)) >= BLINK_SHARE
    bad = steady | (random.random((len(clip), len(pixels.gain))) < 0.5)
    pixels.spoil(spoiled, bad & ~mask[pixels.places])
    return spoiled


def coarsen_levels(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """Few grey levels, as of a scene that spans few counts of its sensor; the step between them is `strength`."""
    steps = np.float32(round(1 / strength))
    return np.rint(clip * steps) / steps


def lower_gain(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """From a random frame on, a hot or cold object takes `strength` of the range, which lowers the scene's contrast."""
    adjusted = clip.copy()
    later = adjusted[random.integers(len(clip)) :]
    later *= np.float32(1 - strength)
    later += np.float32(strength * random.random())
    return adjusted


def compress_jpeg(clip: np.ndarray, mask: np.ndarray, strength: float, random: Generator) -> np.ndarray:
    """JPEG compression of every frame, of quality 100 - `strength`."""
    quality = (cv2.IMWRITE_JPEG_QUALITY, 100 - round(strength))
    stored = [cv2.imencode(".jpg", frame, quality)[1] for frame in np.rint(255 * clip).astype(np.uint8)]
    decoded = np.stack([cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) for data in stored])
    return decoded.astype(np.float32) / np.float32(255)


class Fault(NamedTuple):
    """The function that applies a fault to a clip, and the range of its strength."""

    apply: Callable[[np.ndarray, np.ndarray, float, Generator], np.ndarray]
    strengths: tuple[float, float]


# In the order of a camera: sensor, conversion to counts, conversion to grey levels, file. At the greatest strengths,
# 99 % of the targets of 160 training images of NUAA-SIRST and NUDT-SIRST keep 66 % of their contrast or more; the
# lower gain alone leaves 30 % of all contrasts.
FAULTS = (
    Fault(add_column_offsets, (0.002, 0.02)),
    Fault(add_row_offsets, (0.002, 0.02)),
    Fault(add_channel_offsets, (0.004, 0.04)),
    Fault(add_noise, (0.004, 0.02)),
    Fault(spoil_pixels, (1e-5, 1e-3)),
    Fault(coarsen_levels, (1 / 128, 1 / 32)),
    Fault(lower_gain, (0.1, 0.7)),  # a hot object takes up to 0.8 of the range of raw frames (`utils.grey_levels`)
    Fault(compress_jpeg, (5, 60)),
)


def record_clip(clip: np.ndarray, mask: np.ndarray, random: Generator, fault_share: float) -> np.ndarray:
    """A clip float32 [T, H, W] in 0..1, with targets at `mask` bool [H, W], as a random camera records it.

    Every fault of `FAULTS` occurs with probability `fault_share`; its strength is drawn log-uniformly from its range.
    """
    for fault in FAULTS:
        if random.random() < fault_share:
            clip = fault.apply(clip, mask, log_uniform(random, *fault.strengths), random).clip(0, 1)
    return clip
