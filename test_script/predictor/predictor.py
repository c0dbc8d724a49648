"""`Predictor`: frames in, probability maps, masks and detections out. Shared by the commands; made for notebooks too.

from test_script.predictor import Predictor

predictor = Predictor.from_checkpoint("checkpoint_best.pth", device="auto")
result = predictor(frames)  # numpy [N, H, W], uint8, uint16 or float in 0..1
result.probability          # float32 [N, H, W], 0..1, at the frames' own size
result.mask                 # bool [N, H, W], probability > threshold
result.detections[3]        # list of Detection of frame 3: centroid and box in pixels, area, scores
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import load_model
from test_script.predictor.clip_stream import sliding_clips
from test_script.predictor.preparation import eval_transform, frame_preparation, recipe_settings
from test_script.predictor.tiling import pad_to_multiple, round_up, run_tiled
from test_script.results.detections import Detection, find_detections
from utils.checkpoint import read_checkpoint
from utils.distributed import autocast, choose_amp, choose_device
from utils.errors import InputError
from utils.images import to_unit

PUBLISHED_SCALES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # of the 2026 release's --msc
TILE_OVERLAP = 64  # pixels by which neighbouring tiles overlap, at least


class ScoreMaps(NamedTuple):
    """What the network says of one target frame, float32 [h, w] at the size asked for; None where not asked for."""

    probability: np.ndarray | None  # mean over scales and flips of sigmoid(logits)
    logit: np.ndarray | None  # mean over flips of the logits at scale 1


@dataclass(frozen=True)
class Prediction:
    """Results for N frames, at their own size."""

    probability: np.ndarray  # float32 [N, H, W], 0..1
    mask: np.ndarray  # bool [N, H, W]
    detections: list[list[Detection]]  # by frame


class FrameResult(NamedTuple):
    """Result for one frame of a stream."""

    frame: np.ndarray  # as it came in, grey 0..1, float32 [H, W]
    probability: np.ndarray  # float32 [H, W]
    mask: np.ndarray  # bool [H, W]
    detections: list[Detection]


class Predictor:
    """A network with its preprocessing and test-time augmentation.

    Args:
        model: a network of `models`.
        prepare: grey frame float32 [H, W] in 0..1 -> tensor [C, h, w] as the network was trained on.
        flip: average with the left-right flipped clip.
        scales: average over the clip resized by each of these (1.0 alone: as it is).
        tile: side of square tiles, a multiple of the network's, for frames larger than that. None: whole frames.
        amp: mixed precision: none, bf16, fp16 or auto (see `utils.distributed.choose_amp`).
        compile: compile the network (torch.compile); pays for thousands of frames of one size.
        batch_size: clips worked on at a time.
        threshold: a pixel is target where its probability is above it.

    On the CPU every pass (a clip, a scale, a flip) runs alone on one core, as many side by side as torch has threads:
    CPU kernels round differently for other batch sizes and numbers of threads, so this is what makes the results
    independent of `batch_size`, cores and processes. Few passes at a time (one frame, no flip) leave cores idle.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[np.ndarray], Tensor],
        device: str | torch.device = "cpu",
        *,
        flip: bool = False,
        scales: tuple[float, ...] = (1.0,),
        tile: int | None = None,
        amp: str = "none",
        compile: bool = False,
        batch_size: int = 4,
        threshold: float = 0.5,
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise InputError(f"scales {scales} given; expected one or more positive numbers")
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} given; expected at least 1")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold} given; expected a probability, 0 to 1")
        multiple = model.size_multiple
        if tile is not None and round_up(tile, multiple) <= TILE_OVERLAP:
            raise InputError(
                f"tile size {tile} given; tiles overlap by {TILE_OVERLAP} px, so give a larger one, e.g. 256"
            )
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.prepare = prepare
        self.flip = flip
        self.scales = tuple(scales)
        self.tile = None if tile is None else round_up(tile, multiple)
        self.amp = choose_amp(amp, self.device)
        self.batch_size = batch_size
        self.threshold = threshold
        self.compiled = compile
        self._forward = torch.compile(self.model) if compile else self.model

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", image_size: int | None = None, **options: Any
    ) -> "Predictor":
        """Predictor of a checkpoint file, ours or a published one; `options` are those of the class.

        `device`: auto, cpu, cuda, cuda:N or mps. `image_size`: for DATransNet files that do not say it (256 for
        NUDT-SIRST, 512 for IRSTD-1K). Raises `InputError` where the file is no checkpoint.
        """
        checkpoint = read_checkpoint(path)
        model = load_model(checkpoint, **({} if image_size is None else {"image_size": image_size}))
        settings = recipe_settings(checkpoint)
        transform = eval_transform(model, settings, tiled=options.get("tile") is not None)
        return cls(model, frame_preparation(transform), choose_device(device), **options)

    def __call__(self, frames: np.ndarray | Iterable[np.ndarray]) -> Prediction:
        """Predict every frame of a clip or of a set of images.

        `frames`: one frame [H, W], frames [N, H, W] or [N, H, W, 3] (RGB), or a list of frames, all of one size; uint8,
        uint16 (scaled from each frame's minimum to its maximum) or float in 0..1. A multi-frame network takes them as
        consecutive, repeating the first and the last where a clip reaches beyond. Raises `InputError` for other input.
        """
        results = list(self.stream(as_grey_frames(frames)))
        if not results:
            raise InputError("no frames given; expected at least one, e.g. an array [N, H, W]")
        return Prediction(
            np.stack([result.probability for result in results]),
            np.stack([result.mask for result in results]),
            [result.detections for result in results],
        )

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[FrameResult]:
        """Results for a stream of grey frames float32 [H, W] in 0..1, in order, each frame prepared once.

        Holds a clip and a batch of frames at a time. Raises `InputError` where the frames of a clip differ in size.
        """
        prepared = ((frame, self.prepare(frame)) for frame in frames)
        clips = sliding_clips(prepared, self.model.num_frames)
        for batch in batched(clips, self.batch_size):
            tensors = [stack_clip([tensor for _, tensor in clip]) for _, clip in batch]
            targets = [frame for (frame, _), _ in batch]
            maps = self.score_maps(tensors, [frame.shape for frame in targets])
            for frame, (probability, _) in zip(targets, maps, strict=True):
                mask = probability > self.threshold
                yield FrameResult(frame, probability, mask, find_detections(mask, probability))

    @torch.inference_mode()
    def score_maps(
        self, clips: list[Tensor], sizes: list[tuple[int, int]], probability: bool = True, logit: bool = False
    ) -> list[ScoreMaps]:
        """Score maps of the target frames of `clips` (each [T, C, H, W], sizes may differ) at `sizes` (h, w).

        One set of forward passes serves both maps: `probability` (all scales and flips) and `logit` (scale 1, flips).
        """
        scales = list(self.scales) if probability else []
        if logit and 1.0 not in scales:
            scales.append(1.0)
        passes = [(scale, flip) for scale in scales for flip in ((False, True) if self.flip else (False,))]
        if self.device.type != "cpu":
            logits = self._passes_on_gpu(clips, sizes, passes)
            return [self._combine(own, probability, logit) for own in logits]
        cores = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            logits = self._passes_on_cpu(clips, sizes, passes, cores)
            return [self._combine(own, probability, logit) for own in logits]
        finally:
            torch.set_num_threads(cores)

    def _passes_on_cpu(
        self, clips: list[Tensor], sizes: list[tuple[int, int]], passes: list[tuple[float, bool]], cores: int
    ) -> list[dict[tuple[float, bool], Tensor]]:
        """Logits [h, w] of every pass (scale, flip) for every clip; passes run side by side, on one core each."""

        @torch.inference_mode()  # it holds for a thread
        def run(job: tuple[int, tuple[float, bool]]) -> Tensor:
            i, (scale, flip) = job
            return resize_map(self._scaled_logits(clips[i][None], scale, flip)[0], sizes[i])

        jobs = [(i, one) for i in range(len(clips)) for one in passes]
        if self.compiled or cores == 1:  # torch.compile is not made for several threads
            maps = [run(job) for job in jobs]
        else:
            with ThreadPoolExecutor(cores) as pool:
                maps = list(pool.map(run, jobs))
        own = batched(maps, len(passes))
        return [dict(zip(passes, each, strict=True)) for each in own]

    def _passes_on_gpu(
        self, clips: list[Tensor], sizes: list[tuple[int, int]], passes: list[tuple[float, bool]]
    ) -> list[dict[tuple[float, bool], Tensor]]:
        """The same, clips of equal size together, and with their flips in one batch."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, clip in enumerate(clips):
            by_shape.setdefault(tuple(clip.shape), []).append(i)
        results: list[dict] = [{} for _ in clips]
        for group in (group for same in by_shape.values() for group in batched(same, self.batch_size)):
            inputs = torch.stack([clips[i] for i in group]).to(self.device, non_blocking=True)
            for scale in dict.fromkeys(scale for scale, _ in passes):
                flips = [flip for one, flip in passes if one == scale]
                views = torch.cat([inputs.flip(-1) if flip else inputs for flip in flips])
                scaled = resize_clips(views, scale, self.model.size_multiple)
                for view, logits in enumerate(self._logits(scaled)):
                    i = group[view % len(group)]
                    results[i][scale, flips[view // len(group)]] = resize_map(logits, sizes[i])
        return results

    def _combine(self, logits: dict[tuple[float, bool], Tensor], probability: bool, logit: bool) -> ScoreMaps:
        """The maps of one clip from the logits [h, w] of its passes (scale, flip); flipped ones are flipped back."""

        def over_flips(average: Callable[[bool], Tensor]) -> np.ndarray:
            value = average(False)
            if self.flip:
                value = (value + average(True).flip(-1)) / 2
            return value.cpu().numpy()

        def mean_probability(flip: bool) -> Tensor:
            return sum(logits[scale, flip].sigmoid() for scale in self.scales) / len(self.scales)

        return ScoreMaps(
            over_flips(mean_probability) if probability else None,
            over_flips(lambda flip: logits[1.0, flip]) if logit else None,
        )

    def _scaled_logits(self, clips: Tensor, scale: float, flip: bool) -> Tensor:
        """Logits [B, H, W] of clips [B, T, C, H, W] flipped (the logits are not flipped back) and resized."""
        return self._logits(resize_clips(clips.flip(-1) if flip else clips, scale, self.model.size_multiple))

    def _logits(self, clips: Tensor) -> Tensor:
        """Logits [B, H, W], float32, of clips [B, T, C, H, W] of any size."""
        height, width = clips.shape[-2:]
        if self.tile is not None and max(height, width) > self.tile:
            logits = run_tiled(self._run, clips, self.tile, TILE_OVERLAP)
        else:
            logits = self._run(pad_to_multiple(clips, self.model.size_multiple))
        return logits[:, 0, :height, :width]

    def _run(self, clips: Tensor) -> Tensor:
        """The network itself: clips [B, T, C, H, W] of a size it takes -> logits [B, 1, H, W], float32."""
        with autocast(self.device, self.amp):
            return self._forward(clips).float()


def as_grey_frames(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames as `Predictor` takes them -> grey frames float32 [H, W] in 0..1."""
    if isinstance(frames, np.ndarray) and frames.ndim == 2:
        frames = frames[None]
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.ndim == 3 and frame.shape[2] == 3:
            frame = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if frame.ndim != 2 or not frame.size:
            raise InputError(f"frame {index} has shape {frame.shape}; expected [H, W] or [H, W, 3]")
        if frame.dtype in (np.uint8, np.uint16):
            yield to_unit(frame)
            continue
        if frame.dtype.kind != "f" or not (frame.min() >= 0 and frame.max() <= 1):
            raise InputError(
                f"frame {index} is {frame.dtype}, {frame.min()} to {frame.max()}; "
                "expected uint8, uint16 or float in 0..1: scale it"
            )
        yield frame.astype(np.float32)


def resize_clips(clips: Tensor, scale: float, multiple: int) -> Tensor:
    """Resize clips [B, T, C, H, W] by `scale` as the 2026 release: sides int(scale * side) rounded up to `multiple`.

    Scale 1 leaves the clips as they are (padding brings them to the multiple).
    """
    if scale == 1.0:
        return clips
    sides = [round_up(max(1, int(scale * side)), multiple) for side in clips.shape[-2:]]
    resized = F.interpolate(clips.flatten(0, 1), size=sides, mode="bilinear", align_corners=False)
    return resized.unflatten(0, clips.shape[:2])


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize one map [H, W] bilinearly to `size`."""
    if values.shape == torch.Size(size):
        return values
    return F.interpolate(values[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def stack_clip(frames: list[Tensor]) -> Tensor:
    """Frames [C, H, W] -> clip [T, C, H, W]; `InputError` where they differ in size."""
    shapes = {tuple(frame.shape[-2:]) for frame in frames}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width} x {height}" for height, width in sorted(shapes))
        raise InputError(
            f"frames of {sizes} in one clip; a multi-frame network needs frames of one size: crop or resize them"
        )
    return torch.stack(frames)


Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` consecutive items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
