"""Prepare frames of any kind for a network, as in its training; the same for validation, inference, and prediction."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from istd.datasets import ClipDataset, Sequence
from istd.datasets.catalog import DatasetInfo
from istd.datasets.clips import Transform
from istd.datasets.presets import PRESETS, build_transform, find_preset
from istd.models import Network, load_model, try_network
from istd.models.external import TRIAL_SIDE, ExternalNetwork
from istd.utils.checkpoint import read_checkpoint
from istd.utils.errors import InputError
from istd.utils.grey_levels import SEQUENCE, GreyScale, RangeRule, parse_range, range_frames
from istd.utils.images import one_channel

T = TypeVar("T")
CHANNELS = (1, 3, 4)  # of a frame [H, W, C]: grey, RGB, RGBA
DEFAULT_PRESET = "grey"  # for networks without a preset: frames as they are


def load_recipe(
    path: str | Path,
    image_size: int | None,
    datasets: Iterable[DatasetInfo] = (),
    code: dict[str, Any] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """The network of a checkpoint file, and the settings of its training ({} for a published file).

    `image_size` and `code` as in `Predictor.from_checkpoint`. Without `image_size`, a published file that does not
    record it has the size published for these `datasets`; raises `InputError` if their sizes differ. A network from the
    user's code is first tried on noise. In the settings, "data" is the run's record of its images, if it has one.
    """
    checkpoint = read_checkpoint(path)
    code = code or {}
    if code.get("code") and checkpoint.kind == "ours" and not checkpoint.code:
        code = {"code": code["code"]}  # which `load_model` says is not used; nor are its interface and its options
    model = load_model(checkpoint, **code | ({} if image_size is None else {"image_size": image_size}))
    settings = checkpoint.settings if checkpoint.kind == "ours" else {}
    if "data" in checkpoint.training:
        settings = settings | {"data": checkpoint.training["data"]}
    if isinstance(model, ExternalNetwork):
        for note in try_network(model, settings.get("train_size", TRIAL_SIDE)):
            print(note)
    if checkpoint.kind == "ours" or image_size is not None or "image_size" not in model.options:
        return model, settings
    published = sorted({info.image_size for info in datasets if info.image_size and info.preset == model.name})
    if len(published) > 1:
        sizes = " and ".join(map(str, published))
        raise InputError(f"{path} does not record its image size, and these datasets have {sizes}: give --image_size")
    return load_model(checkpoint, image_size=published[0]) if published else model, settings


def preset_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """The preset that a network was trained with, by its `settings`, else the preset of its paper."""
    return settings.get("preset") or (model.name if model.name in PRESETS else DEFAULT_PRESET)


def eval_transform(model: nn.Module, settings: dict[str, Any], tiled: bool = False) -> Transform:
    """The evaluation transform of a network's preset, at the `val_size` in the `settings` of its training.

    In tiles, a network sees frames at their stored size.
    """
    preset = preset_of(model, settings)
    size = None if tiled else settings.get("val_size") or find_preset(preset).size
    return build_transform(preset, False, size, model.in_channels)


def range_rule(settings: dict[str, Any], asked: RangeRule | None = None) -> RangeRule:
    """The rule that scales raw frames to 0..1: the rule `asked` for, else the rule in the `settings` of the training.

    Settings without a rule come from 8-bit data, or from a version that scaled every frame by itself: the default.
    """
    return asked or parse_range(settings.get("range") or SEQUENCE)


def eval_dataset(
    sequences: list[Sequence],
    model: nn.Module,
    settings: dict[str, Any],
    name: str,
    tiled: bool = False,
    grey_range: RangeRule | None = None,
) -> ClipDataset:
    """The clips and masks on which a network is evaluated; arguments as in `eval_transform`, `name` for messages.

    `grey_range`: the range of raw frames, if not as in training; see `range_rule`.
    """
    border = find_preset(preset_of(model, settings)).border
    transform, rule = eval_transform(model, settings, tiled), range_rule(settings, grey_range)
    clips = {"stride": model.frame_stride, "target": model.target_index}
    return ClipDataset(sequences, model.num_frames, transform, border, name, grey_range=rule, **clips)


def frame_preparation(transform: Transform) -> Callable[[np.ndarray], Tensor]:
    """The transform as a function of a single grey frame: float32 [H, W] in 0..1 -> [C, h, w]."""
    random = np.random.default_rng(0)  # evaluation draws nothing from it

    def prepare(frame: np.ndarray) -> Tensor:
        clip, _ = transform(frame[None], np.zeros(frame.shape, bool), random)
        return clip[0]

    return prepare


def as_grey_frames(frames: np.ndarray | Iterable[np.ndarray], rule: RangeRule = SEQUENCE) -> Iterator[np.ndarray]:
    """Convert the input of a `Predictor` to grey frames, float32 [H, W] in 0..1, by the `rule` for raw frames.

    Raises `InputError` for other shapes and types.
    """
    if isinstance(frames, np.ndarray) and (frames.ndim == 2 or (frames.ndim == 3 and frames.shape[-1] in CHANNELS)):
        frames = frames[None]
    stored = [_stored_frame(index, np.asarray(frame)) for index, frame in enumerate(frames)]
    scale = GreyScale(rule, lambda: range_frames(stored))
    return map(scale, stored)


def _stored_frame(index: int, frame: np.ndarray) -> np.ndarray:
    """Frame number `index` with one channel [H, W]."""
    if frame.ndim < 2 or frame.shape[2:] not in ((), *((count,) for count in CHANNELS)) or not frame.size:
        raise InputError(
            f"frame {index} has shape {frame.shape}; expected [H, W] or [H, W, 1, 3 or 4] (grey, RGB, RGBA)"
        )
    if frame.dtype.kind not in "uif":
        raise InputError(f"frame {index} is {frame.dtype}; expected whole or floating-point numbers")
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    return one_channel(frame[..., 2::-1] if frame.ndim == 3 else frame)


def sliding_clips(
    frames: Iterable[T], num_frames: int, stride: int = 1, target: int | None = None
) -> Iterator[tuple[T, list[T]]]:
    """Yield (target frame, its clip of `num_frames` frames that are `stride` apart) for every frame, in order.

    The target is frame `target` of the clip, `num_frames // 2` by default. The first and the last frame are repeated
    where a clip reaches beyond them. Holds the frames from a clip's first to its last at a time.
    """
    before = stride * (num_frames // 2 if target is None else target)
    span = stride * (num_frames - 1) + 1
    window: deque[T] = deque(maxlen=span)

    def repeat_edges() -> Iterator[T]:
        for number, frame in enumerate(frames):
            yield from repeat(frame, 1 if number else 1 + before)
        yield from repeat(window[-1], span - 1 - before) if window else ()

    for frame in repeat_edges():
        window.append(frame)
        if len(window) == span:
            yield window[before], list(window)[::stride]


def stack_clip(frames: list[Tensor]) -> Tensor:
    """Stack frames [C, H, W] to a clip [T, C, H, W]; raises `InputError` if they differ in size."""
    shapes = {tuple(frame.shape[-2:]) for frame in frames}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width} x {height}" for height, width in sorted(shapes))
        raise InputError(f"frames of {sizes} in one clip; a multi-frame network needs one size: crop or resize them")
    return torch.stack(frames)
