"""Grey levels of raw thermal frames: stored counts are mapped to 0..1 by a robust range of the sequence."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from cv2 import medianBlur

from istd.utils.errors import InputError
from istd.utils.items import spread

RANGE_FRAMES = 16  # frames of a sequence, evenly spread, from which its range is taken
MAX_SAMPLES = 1 << 17  # pixels of these frames from which percentiles are taken
TAILS = (0.5, 99.5)  # percentiles of the scene: in 320 x 256 px, 400 px lie beyond either
MARGIN = 0.25  # of the scene's span, kept free on either side for levels that the sampled frames do not show
MAX_REACH = 4.0  # spans of the scene up to which bright and dark regions widen the range
PEAK_FACTOR = 3.0  # by which a target's peak may stand out of the scene further than the pixel beside it
DEFECT_REACH = 1.0  # spans of the range beyond which an isolated pixel is a defect of the sensor
MIN_CONSTANT_FRAMES = 4  # frames in which a pixel never changes before it counts as stuck
NODATA = (-9999.0, -32768.0, -99999.0)  # fill values of float images; values that are not finite are nodata, too
MAX_FLOAT = 1e30  # beyond this a float is nodata, too
LIVE_FRAMES = 4  # most recent frames from which a moving range is computed
LIVE_STEP = 5e-4  # share of the span by which either end of a moving range may move between two frames

T = TypeVar("T")


class GreyRange(NamedTuple):
    """Stored levels that become 0 and 1."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.6g} to {self.high:.6g}"


UNIT = GreyRange(0.0, 1.0)
RangeRule = GreyRange | str  # a fixed range, or how it is chosen: SEQUENCE or FRAME
SEQUENCE, FRAME = "sequence", "frame"


def parse_range(text: str | Iterable[str | float]) -> RangeRule:
    """`sequence`, `frame`, or two numbers LOW HIGH, as text or in parts; raises `InputError` for anything else."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    if len(parts) == 1 and parts[0] in (SEQUENCE, FRAME):
        return parts[0]
    try:
        low, high = map(float, parts)
    except ValueError:
        low = high = 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        written = " ".join(map(str, parts))
        raise InputError(f"range {written!r}: expected two numbers LOW HIGH with LOW < HIGH, or {SEQUENCE}, or {FRAME}")
    return GreyRange(low, high)


def range_value(rule: RangeRule) -> str | list[float]:
    """A rule as result files record it."""
    return list(rule) if isinstance(rule, GreyRange) else rule


def is_raw(pixels: np.ndarray) -> bool:
    """Whether stored pixels need a range: everything deeper than 8 bits does."""
    return pixels.dtype != np.uint8


def to_unit(pixels: np.ndarray, grey_range: GreyRange | None = None) -> np.ndarray:
    """Stored pixels [H, W] as float32 in 0..1.

    8 bits: divided by 255, whatever the range. Deeper pixels: mapped linearly from `grey_range` (default: the range of
    this frame alone) and clipped; isolated pixels far beyond it (stuck or blinking) become the median of their
    surroundings, and nodata the median of the frame.
    """
    if not is_raw(pixels):
        return pixels.astype(np.float32) / np.float32(255)
    grey, _ = _repaired(pixels, grey_range or sequence_range([pixels]))
    return np.clip(grey, 0, 1, out=grey)


def repair(pixels: np.ndarray) -> np.ndarray:
    """Stored pixels [H, W] with the nodata and the isolated defects of deep frames replaced as in `to_unit`."""
    if not is_raw(pixels):
        return pixels
    low, high = grey_range = sequence_range([pixels])
    grey, faulty = _repaired(pixels, grey_range)
    repaired, levels = pixels.copy(), low + (high - low) * grey[faulty].astype(np.float64)
    repaired[faulty] = np.rint(levels) if pixels.dtype.kind in "iu" else levels
    return repaired


def _repaired(pixels: np.ndarray, grey_range: GreyRange) -> tuple[np.ndarray, np.ndarray]:
    """Raw pixels [H, W] as float32, 0..1 at the ends of the range and not clipped, and where they were replaced."""
    low, high = grey_range
    values = pixels.astype(np.float64 if pixels.dtype.itemsize > 4 else np.float32)
    faulty = ~_valid(pixels)
    if faulty.any():
        values[faulty] = np.median(values[~faulty]) if not faulty.all() else low
    span = high - low
    if span <= 0:
        return np.zeros(pixels.shape, np.float32), faulty
    grey = ((values - low) / span).astype(np.float32)
    if grey.max() > 1 + DEFECT_REACH or grey.min() < -DEFECT_REACH:
        bright, dark = _pair_extremes(grey)
        defects = ((grey > 1 + DEFECT_REACH) & (bright <= 1 + DEFECT_REACH)) | (
            (grey < -DEFECT_REACH) & (dark >= -DEFECT_REACH)
        )
        if defects.any():
            grey[defects] = medianBlur(grey, 3)[defects]
            faulty |= defects
    return grey, faulty


def frame_range(pixels: np.ndarray) -> GreyRange:
    """The range from the lowest to the highest level of a frame: the rule FRAME."""
    values = pixels[_valid(pixels)]
    return GreyRange(float(values.min()), float(values.max())) if values.size else UNIT


def sequence_range(frames: Iterable[np.ndarray]) -> GreyRange:
    """The range of a sequence from a sample of its frames [H, W]: the rule SEQUENCE.

    The scene spans the 0.5th to the 99.5th percentile over the frames, without a filling (levels at the minimum or
    maximum that lie apart from all others). The range adds a margin and extends to the brightest and to the darkest
    region of two or more pixels, but no further than MAX_REACH spans: a target of a few pixels keeps its shape, a hot
    object is white, and neither hot objects nor single or stuck pixels reduce the scene's contrast. Floats that all lie
    in 0..1 are taken as they are.
    """
    frames = [frame for frame in frames if frame.size]
    if all(map(_in_unit, frames)):  # or there are none
        return UNIT
    step = max(1, sum(frame.size for frame in frames) // MAX_SAMPLES)
    samples = np.concatenate([frame.ravel()[number % step :: step] for number, frame in enumerate(frames)])
    samples = samples[_valid(samples)]
    if not samples.size:
        return UNIT
    samples = _without_filling(samples.astype(np.float64))
    low, high = np.percentile(samples, TAILS)
    dark, bright = _extremes(frames, low, high)
    if high <= low:  # a constant scene
        return GreyRange(min(float(low), dark), max(float(high), bright))
    span = high - low
    dark, bright = max(dark, low - MAX_REACH * span), min(bright, high + MAX_REACH * span)
    return GreyRange(float(min(low - MARGIN * span, dark)), float(max(high + MARGIN * span, bright)))


class MovingRange:
    """The range of a live stream: it starts at the first frame's range and slowly follows the latest frames.

    It starts anew where most of a frame lies outside, as after a camera's recalibration.
    """

    def __init__(self) -> None:
        self.range: GreyRange | None = None
        self._recent: deque[np.ndarray] = deque(maxlen=LIVE_FRAMES)

    def update(self, pixels: np.ndarray) -> GreyRange:
        """The range for the next frame [H, W] of the stream."""
        if self._recent and self._recent[-1].shape != pixels.shape:
            self._recent.clear()
        self._recent.append(pixels)
        if self.range == UNIT and _in_unit(pixels):
            return UNIT
        now = sequence_range(self._recent)
        # anew where most of the frame lies outside the range
        if self.range is None or np.mean((pixels < self.range.low) | (pixels > self.range.high)) > 0.5:
            self._recent = deque([pixels], maxlen=LIVE_FRAMES)
            self.range = sequence_range(self._recent)
        else:
            step = LIVE_STEP * (self.range.high - self.range.low)
            moves = (float(np.clip(new - old, -step, step)) for old, new in zip(self.range, now, strict=True))
            self.range = GreyRange(*(old + move for old, move in zip(self.range, moves, strict=True)))
        return self.range


class GreyScale:
    """Converts stored frames of a sequence to grey levels in 0..1; `range` is the range of the last raw frame.

    sample: reads, at the first raw frame, the frames from which the sequence's range is computed; None for a live
    stream, which gets a `MovingRange`.
    """

    def __init__(self, rule: RangeRule = SEQUENCE, sample: Callable[[], Iterable[np.ndarray]] | None = None) -> None:
        self.rule, self.range = rule, None
        self.moving = MovingRange() if sample is None else None
        self._sample = sample

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Convert stored pixels [H, W] to float32 in 0..1."""
        return to_unit(pixels, self.range_for(pixels) if is_raw(pixels) else None)

    def range_for(self, pixels: np.ndarray) -> GreyRange:
        """The range of a raw frame, the next of the sequence."""
        if isinstance(self.rule, GreyRange):
            chosen = self.rule
        elif self.rule == FRAME:
            chosen = frame_range(pixels)
        elif self.moving:
            chosen = self.moving.update(pixels)
        else:
            chosen = self.range or sequence_range([f for f in self._sample() if is_raw(f)] or [pixels])
        self.range = chosen
        return chosen  # not `self.range`, which another thread may have replaced


def describe_range(scale: GreyScale) -> str:
    """The range of the last raw frame, and how it was chosen, in a few words."""
    rules = {SEQUENCE: "one range for the sequence" if scale.moving is None else "of the last frame; it moves slowly"}
    rules[FRAME] = "of the last frame; every frame has one"
    return f"stored levels {scale.range} become 0 to 1 ({rules.get(scale.rule, 'as --range says')})"


def range_frames(frames: Sequence[T]) -> list[T]:
    """The frames, spread over a sequence, from which its range is computed."""
    return spread(frames, RANGE_FRAMES)


def _in_unit(frame: np.ndarray) -> bool:
    """Whether a frame holds floats that all lie in 0..1, nodata aside."""
    values = frame[_valid(frame)] if frame.dtype.kind == "f" else frame[:0]
    return bool(values.size) and values.min() >= 0 and values.max() <= 1


def _valid(values: np.ndarray) -> np.ndarray:
    """Which values [...] are data; only floats have nodata."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, bool)
    limit = min(MAX_FLOAT, float(np.finfo(values.dtype).max))  # the maximum of float16 is lower
    with np.errstate(over="ignore"):
        nodata = np.array(NODATA).astype(values.dtype)  # -9999 is -10000 in float16
    return (np.abs(values) <= limit) & ~np.isin(values, nodata)


def _without_filling(samples: np.ndarray) -> np.ndarray:
    """Samples [N] without the minimum or maximum if it lies further from the other samples than these span."""
    for extreme in (samples.min(), samples.max()):
        others = samples[samples != extreme]
        if others.size:
            low, high = np.percentile(others, TAILS)
            if min(abs(extreme - low), abs(extreme - high)) > high - low > 0:
                samples = others
    return samples


def _pair_extremes(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel of [H, W] the highest minimum and the lowest maximum over it and one of its 8 neighbours."""
    bright, dark = np.full(frame.shape, -np.inf, np.float32), np.full(frame.shape, np.inf, np.float32)
    height, width = frame.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(dy, height), slice(max(0, dx), width + min(0, dx)))
        lower, upper = np.minimum(frame[here], frame[there]), np.maximum(frame[here], frame[there])
        for place in (here, there):
            np.maximum(bright[place], lower, out=bright[place])
            np.minimum(dark[place], upper, out=dark[place])
    return bright, dark


def _extremes(frames: list[np.ndarray], low: float, high: float) -> tuple[float, float]:
    """Lowest and highest level that regions of two or more pixels reach in any of the frames, without stuck pixels.

    A pixel counts up to PEAK_FACTOR times as far beyond the scene, `low` to `high`, as one of its neighbours lies.
    """
    values = [frame.astype(np.float32) for frame in frames]
    if frames[0].dtype.kind == "f":
        values = [np.where(_valid(frame), frame, np.median(frame)) for frame in values]
    same_size = len({frame.shape for frame in values}) == 1
    if len(values) >= MIN_CONSTANT_FRAMES and same_size:
        stuck = np.logical_and.reduce([frame == values[0] for frame in values[1:]])
        if not stuck.all():
            values = [np.where(stuck, np.median(frame), frame) for frame in values]
    darkest, brightest = [], []
    for frame in values:
        bright, dark = _pair_extremes(frame)
        brightest.append(np.minimum(frame, high + PEAK_FACTOR * (bright - high)).max())
        darkest.append(np.maximum(frame, low - PEAK_FACTOR * (low - dark)).min())
    return float(min(darkest)), float(max(brightest))
