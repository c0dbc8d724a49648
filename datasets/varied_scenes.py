"""Render sequences with random scenes, targets, and sensors: `--clutter varied`."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from istd.datasets import rendering
from istd.datasets.backgrounds import CLUTTERS, Background, Texture, below, build_background, random_velocity
from istd.datasets.rendering import BAD_PIXELS, RenderConfig, RenderedSequence
from istd.datasets.sensor import (
    FAULT_SHARE,
    draw_bad_pixels,
    draw_channel_offsets,
    draw_noise,
    draw_offsets,
    log_uniform,
)
from istd.datasets.snr import local_statistics

TARGET_SIZE = (2.0, 15.0)  # px at half contrast: minimum width, maximum length
ASPECT = (1.0, 3.0)  # length / width
FLATNESS = (1.0, 6.0)  # from a Gaussian to a flat top
WINGED_SHARE = 0.3  # of the targets of at least MIN_WINGED_LENGTH
MIN_WINGED_LENGTH = 6.0  # px
CONTRAST_RANGE = (0.04, 0.8)  # of a full range of 1; raised where the SNR asked for needs more
MIN_CONTRAST = 0.02  # five grey levels of 255; targets whose contrast after clipping is below this are discarded
DARK_SHARE = 0.35  # of the targets are darker than their background, where that leaves them room
MIN_DEVIATION = 0.5 / 255  # a background that is clipped throughout has none
OUTLINE = 0.5  # of the visible contrast: where annotators draw the outline, and the mask ends

BACKDROP_LEVEL = 0.35  # about the mean of datasets.backgrounds
LEVEL = (0.04, 0.9)  # of the scene: from a dark sky of 10 grey levels of 255 to bright ground
GAIN = (0.1, 7.0)  # of the backdrop's contrasts, in a scene of level 1
STEP = (0.05, 0.5)  # brightness of clouds, skylines and hot objects against what is behind them
LAYER_SHARE = 0.35  # of the sequences that show a kind of layer, for every kind
OBJECT_RADIUS = (11.0, 40.0)  # pixels: hot objects are larger than any target
HAZE = (0.3, 5.0)  # sigma in pixels: how smooth the backdrop is
OVERSHOOT = 0.1  # margin around 0..1 that scenes keep until noise and targets are added and all is clipped
BLUR = (0.3, 1.1)  # sigma in pixels, of the optics
SHADING = 0.25  # brightness that fades over the image at most

NOISE_RANGE = (0.001, 0.04)
PATTERN = (0.0005, 0.012)  # fixed offsets of the columns and, in some sensors, rows
CHANNEL_SPAN = 0.02  # of the offsets of readout channels


class VariedTarget(NamedTuple):
    """Positions [T, 2] of a target as (y, x), headings [T], visible [T], sizes in pixels at half contrast."""

    positions: np.ndarray
    headings: np.ndarray
    visible: np.ndarray
    length: float
    width: float
    flatness: float
    winged: bool
    contrast: float
    dark: bool


def render_varied_sequence(name: str, settings: RenderConfig, snr: float, random: Generator) -> RenderedSequence:
    """Render the sequence `name` with a randomly drawn scene, targets, and sensor; `settings.clutter` is ignored.

    Frames are clipped to 0..1. A target is opaque; its contrast against the local mean is drawn, but at least
    `snr` x the local deviation. Its mask covers the pixels where more than half of its contrast after clipping shows.
    A target that clipping hides altogether is neither drawn nor listed.
    """
    blur = random.uniform(*BLUR)
    scene = _build_scene(settings.size, blur, random)
    targets = [_draw_target(settings, blur, random) for _ in range(random.integers(*settings.targets, endpoint=True))]
    offsets = rendering.platform_offsets(settings.frames, random)
    noise = _build_noise(settings.size, random)
    spoil = _build_faults(settings.size, random)

    frames = np.empty((settings.frames, *settings.size), np.float32)
    masks = np.zeros(frames.shape, bool)
    rows = []
    signs: dict[int, int] = {}
    for number in range(settings.frames):
        clutter = scene(number, offsets[number]).clip(-OVERSHOOT, 1 + OVERSHOOT)
        grain = noise()
        seen = np.clip(clutter + grain, 0, 1)
        for label, target in enumerate(targets):
            place = target.positions[number] + offsets[number]
            patch = varied_profile(target, place, target.headings[number], settings.size)
            if not target.visible[number] or patch is None or patch[1].max() <= OUTLINE:
                continue
            window, profile = patch
            peak = tuple(np.clip(np.rint(place).astype(int), 0, np.array(settings.size) - 1).tolist())
            mean, deviation = local_statistics(seen, peak, guard=max(4, round(target.length / 2) + 2))
            min_contrast = max(MIN_CONTRAST, snr * deviation)
            room = {-1: mean, 1: 1 - mean}
            wanted = -1 if target.dark else 1
            sign = signs.setdefault(label, wanted if room[wanted] >= min_contrast else -wanted)
            if room[sign] < min_contrast:
                continue
            contrast = max(target.contrast, min_contrast)
            clutter[window] += profile * (mean + sign * contrast - clutter[window])
            core = visible_core(profile, contrast, room[sign])
            masks[number][window] |= core
            reached = min(contrast * float(profile.max()), room[sign]) / max(deviation, MIN_DEVIATION)
            rows.append(rendering.target_row(name, number, label, place, window, core, reached))
        frames[number] = clutter + grain
    frames = np.clip(frames, 0, 1)
    spoil(frames)
    return RenderedSequence(frames.clip(0, 1), masks, rows)


def visible_core(profile: np.ndarray, contrast: float, room: float) -> np.ndarray:
    """Mask of a target's opacity `profile`: more than half of its contrast, of which clipping leaves at most `room`."""
    return profile * contrast > OUTLINE * min(contrast, room)


def varied_profile(
    target: VariedTarget, place: np.ndarray, heading: float, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """As `target_profile`: the target's opacity, 0.5 at its outline; wings cross the body at a right angle."""
    scale = 0.5 / (2 * np.log(2)) ** (0.5 / target.flatness)  # size at half contrast -> sigma
    radius = int(np.ceil(2.6 * scale * target.length)) + 2
    length, width = scale * target.length, scale * target.width
    body = rendering.target_profile(place, heading, length, width, shape, radius, target.flatness)
    if body is None or not target.winged:
        return body
    size = (0.8 * length, 0.7 * width)
    wings = rendering.target_profile(place, heading + np.pi / 2, *size, shape, radius, target.flatness)
    return body[0], np.maximum(body[1], wings[1])


def _draw_target(settings: RenderConfig, blur: float, random: Generator) -> VariedTarget:
    """A random target, no smaller and with no sharper edges than the blur of the optics allows."""
    flight = rendering.draw_flight(settings, random)
    min_size = max(TARGET_SIZE[0], 2.36 * blur)  # a point's width at half height
    length = log_uniform(random, min_size, TARGET_SIZE[1])
    width = max(length / random.uniform(*ASPECT), min_size)
    flatness = np.clip(log_uniform(random, *FLATNESS), 1, max(1, width / (4 * blur)))
    winged = length >= MIN_WINGED_LENGTH and random.random() < WINGED_SHARE
    contrast, dark = log_uniform(random, *CONTRAST_RANGE), random.random() < DARK_SHARE
    return VariedTarget(*flight, length, width, flatness, winged, contrast, dark)


# the scene so far [H, W], its movement (y, x) in pixels -> the scene with something before it
Layer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _build_scene(shape: tuple[int, int], blur: float, random: Generator) -> Background:
    """A backdrop of any level and contrast; clouds, wires, hot objects and a skyline before it, at random."""
    backdrop = build_background(str(random.choice(CLUTTERS)), shape, random)
    level, gain, haze = (log_uniform(random, *limits) for limits in (LEVEL, GAIN, HAZE))
    gain *= np.sqrt(level)  # else dark scenes would mostly be black
    shade = _shading(shape, level, random)
    kinds = (_hard_clouds, _wires, _hot_objects, _skyline)
    layers = [build(shape, level, random) for build in kinds if random.random() < LAYER_SHARE]
    pan = random_velocity(random, 0.05, 0.6)

    def render(frame: int, offset: np.ndarray) -> np.ndarray:
        scene = cv2.GaussianBlur(backdrop(frame, offset).astype(np.float32), (0, 0), haze)
        scene = np.float32(level) + np.float32(gain) * (scene - np.float32(BACKDROP_LEVEL)) + shade
        for layer in layers:
            scene = layer(scene, (pan * frame - offset).astype(np.float32))
        return cv2.GaussianBlur(scene, (0, 0), blur)

    return render


def _shading(shape: tuple[int, int], level: float, random: Generator) -> np.ndarray:
    """A brightness [H, W] that fades to all sides of a point: the glow of the sun, the vignette of a lens."""
    y, x = _grid(shape)
    centre, width = random.uniform((0, 0), shape), random.uniform(0.3, 1.0) * max(shape)
    distance = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / width**2
    return (random.uniform(-min(SHADING, 0.5 * level), SHADING) * np.exp(-0.5 * distance)).astype(np.float32)


def _hard_clouds(shape: tuple[int, int], level: float, random: Generator) -> Layer:
    """Clouds with edges from sharp to soft; half of them have a bright rim."""
    field = Texture(shape, random.uniform(3.2, 3.8), random)
    cover, edge = random.uniform(-0.5, 1.2), log_uniform(random, 0.02, 0.4)
    step, rim = _step(level, random), random.choice((0, 1)) * random.uniform(0, 0.2)

    def layer(scene: np.ndarray, move: np.ndarray) -> np.ndarray:
        depth = field.window(*move) - np.float32(cover)
        share = _soft_step(depth / np.float32(edge))
        return scene + share * (step * (1 + np.float32(0.2) * depth) + 4 * rim * (1 - share))

    return layer


def _wires(shape: tuple[int, int], level: float, random: Generator) -> Layer:
    """One to three nearly parallel cables or masts."""
    angle, step = random.choice((0, np.pi / 2)) + random.normal(0, 0.15), _step(level, random)
    lines = [
        (angle + random.normal(0, 0.02), random.uniform(0, max(shape)), random.uniform(0.5, 1.2))
        for _ in range(random.integers(1, 4))
    ]
    y, x = _grid(shape)

    def layer(scene: np.ndarray, move: np.ndarray) -> np.ndarray:
        for angle, distance, width in lines:
            across = np.float32(np.cos(angle)) * (y + move[0]) + np.float32(np.sin(angle)) * (x + move[1])
            scene = scene + step * np.exp(-0.5 * ((across - np.float32(distance)) / np.float32(width)) ** 2)
        return scene

    return layer


def _hot_objects(shape: tuple[int, int], level: float, random: Generator) -> Layer:
    """One to three boxes or ellipses, 22 pixels across and more: vehicles, roofs, the sun; no targets."""
    objects = []
    for _ in range(random.integers(1, 4)):
        centre, angle = random.uniform((0, 0), shape), random.uniform(0, np.pi)
        half = np.array([log_uniform(random, *OBJECT_RADIUS) for _ in range(2)])
        objects.append((centre, angle, half, random.random() < 0.5, _step(level, random), random.uniform(0.3, 2)))
    y, x = _grid(shape)

    def layer(scene: np.ndarray, move: np.ndarray) -> np.ndarray:
        for centre, angle, half, box, step, edge in objects:
            dy, dx = y + np.float32(move[0] - centre[0]), x + np.float32(move[1] - centre[1])
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            along, across = (cos * dx + sin * dy) / half[0], (cos * dy - sin * dx) / half[1]
            reach = np.maximum(np.abs(along), np.abs(across)) if box else np.hypot(along, across)
            scene = scene + step * _soft_step((1 - reach) * half.min() / edge)
        return scene

    return layer


def _skyline(shape: tuple[int, int], level: float, random: Generator) -> Layer:
    """Tree tops or the roofs of houses before the scene, its texture faintly within."""
    length = 2 * shape[1]
    tall = random.uniform(0.05, 0.3) * shape[0]
    if random.random() < 0.5:
        edges = np.cumsum(random.integers(8, 50, length // 8))
        heights = random.uniform(0, tall, len(edges))[np.searchsorted(edges, np.arange(length), side="right")]
    else:
        spectrum = np.fft.rfft(random.standard_normal(length)) / np.maximum(np.arange(length // 2 + 1), 6) ** 1.2
        heights = np.fft.irfft(spectrum, length)
        heights = tall * (0.7 + 0.3 * np.abs(np.tanh(heights / heights.std())))  # the clefts between crowns are sharp
    horizon, step = random.uniform(0.5, 1.0) * shape[0], _step(level, random)
    rows = np.arange(shape[0], dtype=np.float32)[:, None]

    def layer(scene: np.ndarray, move: np.ndarray) -> np.ndarray:
        top = horizon - np.interp(np.arange(shape[1]) + move[1], np.arange(length), heights, period=length) - move[0]
        inside = np.float32(level + step) + np.float32(0.4) * (scene - np.float32(level))
        return below(rows - top.astype(np.float32), inside, scene)

    return layer


def _build_noise(shape: tuple[int, int], random: Generator) -> Callable[[], np.ndarray]:
    """A function that draws the noise of a frame, on the sensor's fixed pattern of columns, rows, and stripes."""
    sigma, blur = log_uniform(random, *NOISE_RANGE), random.uniform(0.4, 0.9) * (random.random() < FAULT_SHARE)
    pattern = draw_offsets(shape[1], log_uniform(random, *PATTERN), random)
    if random.random() < FAULT_SHARE:
        pattern = pattern + draw_offsets(shape[0], log_uniform(random, *PATTERN), random)[:, None]
    if random.random() < FAULT_SHARE:
        pattern = pattern + draw_channel_offsets(shape[1], CHANNEL_SPAN, random)
    return lambda: draw_noise(shape, sigma, random, blur) + pattern


def _build_faults(shape: tuple[int, int], random: Generator) -> Callable[[np.ndarray], None]:
    """A function that spoils frames [T, H, W] in place: columns that are dead, stuck or too bright, and bad pixels."""
    bad_pixels = draw_bad_pixels(shape, BAD_PIXELS, random) if random.random() < FAULT_SHARE else None
    columns = []
    if random.random() < FAULT_SHARE:
        for _ in range(random.integers(1, 4)):
            first = int(random.integers(shape[0])) if random.random() < 0.3 else 0
            gain, offset = ((0, 0), (0, 1), (1, random.uniform(-0.3, 0.3)))[random.integers(3)]
            columns.append((first, int(random.integers(shape[1])), gain, np.float32(offset)))

    def spoil(frames: np.ndarray) -> None:
        for first, column, gain, offset in columns:
            frames[:, first:, column] = gain * frames[:, first:, column] + offset
        if bad_pixels:
            bad_pixels.spoil(frames)

    return spoil


def _step(level: float, random: Generator) -> np.float32:
    """A brightness against a background of `level`: mostly warmer, and darker only where there is room."""
    step = log_uniform(random, *STEP)
    return np.float32(-min(step, level) if random.random() < 0.4 else step)


def _soft_step(values: np.ndarray) -> np.ndarray:
    return (0.5 + 0.5 * np.tanh(0.5 * values)).astype(np.float32)


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]
