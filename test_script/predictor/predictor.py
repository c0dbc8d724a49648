"""`Predictor`: a network with its preprocessing and test-time augmentation. The package shows how to use it."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from istd.test_script.predictor import preparation
from istd.test_script.predictor.detections import find_detections
from istd.test_script.predictor.outputs import FrameResult, Prediction, ScoreMaps
from istd.test_script.predictor.tiling import pad_to_multiple, resize_clips, resize_map, round_up, run_tiled
from istd.utils.cuda_graphs import GraphRunner
from istd.utils.device import autocast, choose_amp, choose_device, float32_precision
from istd.utils.errors import InputError
from istd.utils.grey_levels import SEQUENCE, RangeRule
from istd.utils.items import batched

TILE_OVERLAP = 64  # pixels by which neighbouring tiles overlap, at least
DEFAULT_BATCH = 4  # clips

Size = tuple[int, int]  # height, width
Pass = tuple[float, bool]  # a run of the network over a clip: its scale, and whether it is flipped
Logits = dict[Pass, Tensor]  # [h, w] of each pass over a clip


class Predictor:
    """A network with its preprocessing and test-time augmentation.

    Args:
        model: a network of `models`.
        prepare: grey frame float32 [H, W] in 0..1 -> tensor [C, h, w] as the network was trained on.
        flip: average with the left-right flipped clip.
        scales: average over the clip resized by each of these (1.0 alone: as it is).
        tile: side of square tiles, rounded up to a multiple of the network's, for larger frames. None: whole frames.
        amp: mixed precision: none, bf16, fp16 or auto (see `utils.device.choose_amp`).
        compile: compile the network (torch.compile), which takes minutes for each size of frames.
        batch_size: clips processed at a time. None: 4, and on a CPU at least as many as occupy its cores.
        threshold: a pixel is target where its probability is above it.
        deterministic: give a single frame one thread per pass as well, see below.
        grey_range: of frames deeper than 8 bits: a range per call (None), a range per "frame", or a fixed range.

    On a CPU each pass (a clip, a scale, a flip) runs on one thread, and as many passes side by side as torch has
    threads. CPU kernels round differently for other batch sizes and numbers of threads; therefore results do not depend
    on `batch_size`, the number of cores or of processes, to the last bit. Only a frame that is predicted alone, whose
    passes would leave cores idle, shares out all threads over its passes; its scores may differ in the last digits from
    its scores in a sequence, or on another number of cores. `deterministic` avoids that.
    On a GPU float32 is true float32 (no TF32), and the network's passes become CUDA graphs (see
    `utils.cuda_graphs`), so that a predictor is worth keeping.
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
        batch_size: int | None = None,
        threshold: float = 0.5,
        deterministic: bool = False,
        grey_range: RangeRule | None = None,
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise InputError(f"scales are {scales}; expected one or more positive numbers")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"the batch size is {batch_size}; expected at least 1")
        if not 0 <= threshold <= 1:
            raise InputError(f"the threshold is {threshold}; expected a probability, 0 to 1")
        multiple = model.size_multiple
        if tile is not None and round_up(tile, multiple) <= TILE_OVERLAP:
            raise InputError(f"the tile size is {tile}; tiles overlap by {TILE_OVERLAP} px: use a larger one, e.g. 256")
        self.device = torch.device(device)
        self.amp = choose_amp(amp, self.device)
        self.model = model.to(self.device).eval()
        self.prepare, self.threshold, self.deterministic = prepare, threshold, deterministic
        self.grey_range = grey_range or SEQUENCE
        self.flip, self.scales = flip, tuple(scales)
        self.tile = None if tile is None else round_up(tile, multiple)
        to_fill = -(-torch.get_num_threads() // len(self._passes(self.scales))) if self.device.type == "cpu" else 1
        self.batch_size = batch_size or max(DEFAULT_BATCH, to_fill)
        # Neither compiled code nor a network whose modules may keep values of a pass runs in several Python threads.
        self.one_by_one = compile or not getattr(model, "thread_safe", True)
        self._forward = torch.compile(self.model) if compile else self.model
        if self.device.type == "cuda" and not compile:
            self._forward = GraphRunner(self.model)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        image_size: int | None = None,
        code: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Predictor":
        """Build the predictor of a checkpoint file, ours or published; `options`: arguments of the class.

        `device`: auto, cpu, cuda, cuda:N or mps. `image_size`: for DATransNet files that do not record it (256 for
        NUDT-SIRST, 512 for IRSTD-1K). `code`: for a network of yours, the arguments `code`, `interface` and options of
        `models.load_model`. Raises `InputError` if the file is not a checkpoint.
        """
        model, settings = preparation.load_recipe(path, image_size, code=code)
        transform = preparation.eval_transform(model, settings, tiled=options.get("tile") is not None)
        options["grey_range"] = preparation.range_rule(settings, options.get("grey_range"))
        return cls(model, preparation.frame_preparation(transform), choose_device(device), **options)

    def __call__(self, frames: np.ndarray | Iterable[np.ndarray]) -> Prediction:
        """Predict every frame of a clip or of a set of images.

        `frames`: one frame [H, W] or [H, W, C] (C 1, 3 or 4: grey, RGB, RGBA), several [N, H, W] or [N, H, W, C], or a
        list of frames, all of one size; of any number type. uint8 is divided by 255, floats that all lie in 0..1 are
        taken as they are, and anything else is raw: `grey_range` scales it, as in files (see `utils.grey_levels`). A
        multi-frame network takes the frames as consecutive, repeating the first and the last where a clip reaches
        beyond. Raises `InputError` for other input.
        """
        results = list(self.stream(preparation.as_grey_frames(frames, self.grey_range)))
        if not results:
            raise InputError("there are no frames; expected at least one, e.g. an array [N, H, W]")
        _, probabilities, masks, detections = zip(*results, strict=True)
        return Prediction(np.stack(probabilities), np.stack(masks), list(detections))

    def stream(self, frames: Iterable[np.ndarray], live: bool = False) -> Iterator[FrameResult]:
        """Predict a stream of grey frames float32 [H, W] in 0..1, in order, preparing each frame once.

        Holds a clip and a batch of frames at a time. `live`: give out each frame as soon as its clip is complete,
        instead of a batch, with all threads at work on it. Raises `InputError` if the frames of a clip differ in size.
        """
        prepared = ((frame, self.prepare(frame)) for frame in frames)
        shape = self.model.num_frames, self.model.frame_stride, self.model.target_index
        clips = preparation.sliding_clips(prepared, *shape)
        first = [] if live else list(islice(clips, 2))
        for batch in batched(chain(first, clips), 1 if live else self.batch_size):
            tensors = [preparation.stack_clip([tensor for _, tensor in clip]) for _, clip in batch]
            targets = [frame for (frame, _), _ in batch]
            sizes = [frame.shape for frame in targets]
            maps = self.score_maps(tensors, sizes, alone=live or len(first) == 1, log_odds=True)
            for frame, scores in zip(targets, maps, strict=True):
                mask = scores.probability > self.threshold
                yield FrameResult(frame, scores.probability, mask, find_detections(mask, scores.log_odds))

    @torch.inference_mode()
    def score_maps(
        self,
        clips: list[Tensor],
        sizes: list[Size],
        probability: bool = True,
        logit: bool = False,
        alone: bool = False,
        log_odds: bool = False,
    ) -> list[ScoreMaps]:
        """Score maps of the target frames of `clips` (each [T, C, H, W], sizes may differ) at `sizes` (h, w).

        The same forward passes serve all maps: `probability` and `log_odds` (all scales and flips), and `logit`
        (scale 1, flips). `alone`: nothing else runs beside these clips, so that a pass may take several threads.
        """
        scales = self.scales if probability or log_odds else ()
        passes = self._passes(scales if 1.0 in scales or not logit else (*scales, 1.0))
        cores, threads = torch.get_num_threads(), 1
        if self.device.type != "cpu":
            logits = self._passes_on_gpu(clips, sizes, passes)
        else:
            if not self.deterministic and (alone or self.one_by_one):
                threads = cores if self.one_by_one else max(1, cores // len(passes))
            torch.set_num_threads(threads)
            try:
                logits = self._passes_on_cpu(clips, sizes, passes, 1 if self.one_by_one else cores // threads)
            finally:
                torch.set_num_threads(cores)
        return copy_to_host([self._combine(clip_logits, probability, logit, log_odds) for clip_logits in logits])

    def _passes(self, scales: Iterable[float]) -> list[Pass]:
        return [(scale, flip) for scale in scales for flip in ((False, True) if self.flip else (False,))]

    def _passes_on_cpu(self, clips: list[Tensor], sizes: list[Size], passes: list[Pass], workers: int) -> list[Logits]:
        """Logits [h, w] of every pass over every clip; `workers` passes run side by side."""

        @torch.inference_mode()  # it holds for a thread
        def run(job: tuple[int, Pass]) -> Tensor:
            i, (scale, flip) = job
            clip = clips[i][None].flip(-1) if flip else clips[i][None]
            return resize_map(self._logits(resize_clips(clip, scale, self.model.size_multiple))[0], sizes[i])

        jobs = [(i, job) for i in range(len(clips)) for job in passes]
        with ThreadPoolExecutor(workers) as pool:  # which starts no thread before its first job
            maps = list(map(run, jobs) if workers == 1 else pool.map(run, jobs))
        return [dict(zip(passes, logits, strict=True)) for logits in batched(maps, len(passes))]

    def _passes_on_gpu(self, clips: list[Tensor], sizes: list[Size], passes: list[Pass]) -> list[Logits]:
        """The same on a GPU, with clips of equal size, and their flips, in a batch."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, clip in enumerate(clips):
            by_shape.setdefault(tuple(clip.shape), []).append(i)
        results: list[dict] = [{} for _ in clips]
        for group in (group for same in by_shape.values() for group in batched(same, self.batch_size)):
            inputs = torch.stack([clips[i] for i in group])
            if self.device.type == "cuda":  # only from pinned memory does a copy run beside the GPU's work
                inputs = inputs.pin_memory()
            inputs = inputs.to(self.device, non_blocking=True)
            for scale in dict.fromkeys(scale for scale, _ in passes):
                flips = [flip for pass_scale, flip in passes if pass_scale == scale]
                views = torch.cat([inputs.flip(-1) if flip else inputs for flip in flips])
                with float32_precision(tf32=False):
                    maps = self._logits(resize_clips(views, scale, self.model.size_multiple))
                for view, logits in enumerate(maps):
                    i = group[view % len(group)]
                    results[i][scale, flips[view // len(group)]] = resize_map(logits, sizes[i])
        return results

    def _combine(
        self, logits: Logits, probability: bool, logit: bool, log_odds: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The maps of a clip from the logits [h, w] of its passes; flipped logits are flipped back."""

        def over_flips(average: Callable[[bool], Tensor]) -> Tensor:
            return (average(False) + average(True).flip(-1)) / 2 if self.flip else average(False)

        def mean_probability(flip: bool) -> Tensor:
            return sum(logits[scale, flip].sigmoid() for scale in self.scales) / len(self.scales)

        upright = [logits[key].flip(-1) if key[1] else logits[key] for key in self._passes(self.scales) if log_odds]
        return (
            over_flips(mean_probability) if probability else None,
            over_flips(lambda flip: logits[1.0, flip]) if logit else None,
            mean_log_odds(upright) if log_odds else None,
        )

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
            logits = self._forward(clips)
        expected = (len(clips), 1, *clips.shape[-2:])
        if tuple(logits.shape) != expected:
            raise InputError(f"the network gave logits of shape {tuple(logits.shape)}, expected {expected}")
        return logits.float()


def mean_log_odds(logits: list[Tensor]) -> Tensor:
    """The logit of the mean of the probabilities of `logits`, without the rounding of probabilities near 0 and 1."""
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(logits)
    return torch.logsumexp(logsigmoid(stacked), dim=0) - torch.logsumexp(logsigmoid(-stacked), dim=0)


def copy_to_host(maps: list[tuple[Tensor | None, ...]]) -> list[ScoreMaps]:
    """The maps of several frames, copied from a GPU at once, since a copy waits for everything before it."""
    tensors = [values for pair in maps for values in pair if values is not None]
    flat = torch.cat([values.flatten() for values in tensors]).cpu().split([values.numel() for values in tensors])
    arrays = (part.view(values.shape).numpy() for part, values in zip(flat, tensors, strict=True))
    return [ScoreMaps(*(None if values is None else next(arrays) for values in pair)) for pair in maps]
