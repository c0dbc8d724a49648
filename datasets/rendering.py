"""Render an infrared sequence: background, targets, and sensor; with masks and a row for each target and frame."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from istd.datasets.backgrounds import build_background
from istd.datasets.sensor import NOISE, draw_bad_pixels, draw_noise, draw_offsets
from istd.datasets.snr import local_statistics
from istd.datasets.targets import TargetRow

COLUMN_NOISE = 0.008  # of the fixed offsets of the sensor's columns
BAD_PIXELS = 4e-4  # share of the sensor's pixels
BRIGHTEST = 0.98  # the sensor's gain is set so that no target of the sequence saturates it
JITTER = 0.3  # pixels, of the platform's wander around its aim
JITTER_MEMORY = 0.6  # correlation of the offsets of successive frames

MASK_PEAK_SHARE = 0.3  # of the target's peak: the mask of a dim spot is wider than at half its peak
POINT_SPREAD = (0.7, 1.1)  # sigma in pixels
EXTENDED_SHARE = 0.3  # of the targets
EXTENDED_LENGTH = (1.4, 2.4)  # sigma along the direction of flight, in pixels
PATCH_RADIUS = 9  # pixels around a target that its light reaches
SUBSAMPLES = 3  # per pixel side, to integrate the point spread over the pixel

SNR_SPREAD = 1.2  # targets of one sequence differ by at most this factor
MIN_AMPLITUDE = 0.2  # of SNR x local deviation, where clutter alone outshines the target
TURN = 0.03  # standard deviation of the turning rate, radians a frame
BRIEF_SHARE = 0.3  # of the targets that appear or vanish within the sequence


@dataclass(frozen=True)
class RenderConfig:
    """A dataset to render: ranges are (lowest, highest); size is (H, W); speed in pixels a frame.

    SNR: see `datasets.snr`; with the clutter "varied", the lowest SNR of a sequence's targets.
    """

    sequences: int = 32
    frames: int = 30
    size: tuple[int, int] = (128, 128)
    snr: tuple[float, float] = (1.5, 8.0)
    speed: tuple[float, float] = (0.3, 1.5)
    targets: tuple[int, int] = (1, 3)
    clutter: str = "mixed"
    bits: int = 8
    val_share: float = 0.25
    seed: int = 0


class RenderedSequence(NamedTuple):
    """`frames` float32 [T, H, W] in 0..1, `masks` bool [T, H, W], and the rows of targets.csv."""

    frames: np.ndarray
    masks: np.ndarray
    rows: list[TargetRow]


class FlyingTarget(NamedTuple):
    """Positions [T, 2] of a target as (y, x), headings [T] in radians, visible [T], its size in px, and its SNR."""

    positions: np.ndarray
    headings: np.ndarray
    visible: np.ndarray
    length: float
    width: float
    snr: float


def render_sequence(name: str, settings: RenderConfig, snr: float, random: Generator) -> RenderedSequence:
    """Render the sequence `name` with targets of about `snr`; equal arguments and generators give the same arrays."""
    background = build_background(settings.clutter, settings.size, random)
    targets = [_draw_target(settings, snr, random) for _ in range(random.integers(*settings.targets, endpoint=True))]
    offsets = platform_offsets(settings.frames, random)
    columns = draw_offsets(settings.size[1], COLUMN_NOISE, random)
    bad_pixels = draw_bad_pixels(settings.size, BAD_PIXELS, random)

    frames = np.empty((settings.frames, *settings.size), np.float32)
    masks = np.zeros(frames.shape, bool)
    rows = []
    for number in range(settings.frames):
        clutter = background(number, offsets[number]).astype(np.float32)
        noise = draw_noise(settings.size, NOISE, random) + columns
        light = np.zeros_like(clutter)
        for label, target in enumerate(targets):
            place = target.positions[number] + offsets[number]
            patch = target_profile(place, target.headings[number], target.length, target.width, settings.size)
            if not target.visible[number] or patch is None:
                continue
            window, profile = patch
            core = profile > MASK_PEAK_SHARE
            if not core.any():
                continue
            y, x = np.unravel_index(profile.argmax(), profile.shape)
            peak = (int(y) + window[0].start, int(x) + window[1].start)
            mean, deviation = local_statistics(clutter + noise, peak)
            excess = clutter[peak] + columns[peak[1]] - mean
            amplitude = max(target.snr * deviation - excess, MIN_AMPLITUDE * target.snr * deviation)
            light[window] += np.float32(amplitude) * profile
            masks[number][window] |= core
            reached = (excess + amplitude * profile.max()) / deviation
            rows.append(target_row(name, number, label, place, window, core, reached))
        frames[number] = clutter + noise + light
    frames *= min(1.0, BRIGHTEST / float(frames.max()))
    bad_pixels.spoil(frames)
    return RenderedSequence(np.clip(frames, 0, 1), masks, rows)


def target_profile(
    place: np.ndarray,
    heading: float,
    length: float,
    width: float,
    shape: tuple[int, int],
    radius: int = PATCH_RADIUS,
    flatness: float = 1.0,
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """A Gaussian spot at sub-pixel `place` (y, x), integrated over pixels; its highest pixel is 1.

    Returns the window of the image that it covers and its values there, or None where it lies outside altogether.
    `length` and `width` are the sigmas along and across `heading` (radians, 0 pointing to growing x). The spot is cut
    `radius` pixels from its centre; `flatness` above 1 makes it flat-topped: exp(-(r^2)^flatness / 2).
    """
    centre, size = np.floor(place + 0.5).astype(int), 2 * radius + 1
    steps = (np.arange(size * SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5 - radius
    dy = (steps + centre[0] - place[0])[:, None]
    dx = (steps + centre[1] - place[1])[None]
    along = (np.cos(heading) * dx + np.sin(heading) * dy) / length
    across = (np.cos(heading) * dy - np.sin(heading) * dx) / width
    fine = np.exp(-0.5 * (along**2 + across**2) ** flatness).astype(np.float32)
    profile = fine.reshape(size, SUBSAMPLES, size, SUBSAMPLES).mean(axis=(1, 3))
    profile /= profile.max()
    (top, left), (bottom, right) = np.maximum(centre - radius, 0), np.minimum(centre + radius + 1, shape)
    if top >= bottom or left >= right:
        return None
    window = (slice(int(top), int(bottom)), slice(int(left), int(right)))
    y, x = centre - radius
    return window, profile[top - y : bottom - y, left - x : right - x]


def draw_flight(settings: RenderConfig, random: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [T, 2], headings [T] and visible [T] of a slightly turning flight through a random image point."""
    times = np.arange(settings.frames)
    middle = int(random.integers(settings.frames))
    headings = random.uniform(0, 2 * np.pi) + random.normal(0, TURN) * (times - middle)
    steps = random.uniform(*settings.speed) * np.stack([np.sin(headings), np.cos(headings)], axis=1)
    path = np.cumsum(steps, axis=0)
    positions = path - path[middle] + random.uniform((0, 0), settings.size)
    visible = np.ones(settings.frames, bool)
    if random.random() < BRIEF_SHARE:
        visible = (times >= random.integers(0, middle + 1)) & (times <= random.integers(middle, settings.frames))
    return positions, headings, visible


def _draw_target(settings: RenderConfig, snr: float, random: Generator) -> FlyingTarget:
    flight = draw_flight(settings, random)
    length = width = random.uniform(*POINT_SPREAD)
    if random.random() < EXTENDED_SHARE:
        length = random.uniform(*EXTENDED_LENGTH)
    target_snr = float(np.clip(snr * SNR_SPREAD ** random.uniform(-1, 1), *settings.snr))
    return FlyingTarget(*flight, length, width, target_snr)


def platform_offsets(frames: int, random: Generator) -> np.ndarray:
    """Wander of the platform, pixels (y, x) [T, 2]: every frame keeps a part of the last offset."""
    offsets = random.normal(0, JITTER, (frames, 2))
    for number in range(1, frames):
        offsets[number] = JITTER_MEMORY * offsets[number - 1] + np.sqrt(1 - JITTER_MEMORY**2) * offsets[number]
    return offsets


def target_row(
    name: str, number: int, label: int, place: np.ndarray, window: tuple[slice, slice], core: np.ndarray, snr: float
) -> TargetRow:
    x, y, width, height = cv2.boundingRect(core.astype(np.uint8))
    box = (x + window[1].start, y + window[0].start, width, height, int(core.sum()))
    return TargetRow(name, frame_name(number), label, float(place[1]), float(place[0]), *box, float(snr))


def frame_name(number: int) -> str:
    """Name of a frame's file, without its ending."""
    return f"{number:04d}"
