"""What a run trains and validates on: one or several datasets, held-out sequences, and batches whose order depends on
(seed, epoch) alone."""

import signal
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from inspect import signature
from typing import NamedTuple

import cv2
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Sampler, Subset

import istd.datasets
from istd.datasets import ClipDataset, ClipSample, DatasetIndex, Sequence, collate
from istd.datasets.augmentations import build_augmentations
from istd.datasets.presets import build_transform, find_preset
from istd.datasets.usable import usable_index
from istd.test_script.predictor.preparation import eval_dataset
from istd.train_script.holdout import hold_out
from istd.train_script.norm_statistics import norm_layers
from istd.train_script.settings import SEEDS, Settings
from istd.train_script.state import SIGNALS
from istd.utils.distributed import barrier, cores_of_process, is_main, rank, world_size
from istd.utils.errors import InputError
from istd.utils.grey_levels import parse_range
from istd.utils.images import read_mask

SAMPLED_MASKS = 32
LARGE_TARGET = 0.1  # share of an image
GPU_WORKERS = 8  # at most, of a training process
EVAL_CACHE_BYTES = 64 * 2**20  # of each loading process: evaluation reads frames in order, and once


class EvaluatedSet(NamedTuple):
    """A dataset of clips to evaluate on, and the loader of the frames that this process evaluates, in lists."""

    dataset: ClipDataset
    loader: DataLoader


def open_datasets(settings: Settings) -> list[DatasetIndex]:
    """Open the datasets, on the main process first: the demo is rendered on first use.

    Files that the run uses are looked at, so that none fails after the last epoch; see `usable_index`.
    """
    names = settings.dataset, settings.data_root, settings.split_folder
    indices = istd.datasets.open_datasets(*names) if is_main() else []
    barrier()
    parts = ("train", "test") if _uses_test(settings) else ("train",)
    indices = indices or istd.datasets.open_datasets(*names)
    return [usable_index(index, parts, settings.skip_unusable) for index in indices]


def _uses_test(settings: Settings) -> bool:
    return settings.final_test or settings.select_on == "test"


def split_sequences(settings: Settings, index: DatasetIndex, num_frames: int = 1) -> dict[str, list[Sequence]]:
    """The sequences of a dataset that train ("train"), choose the best epoch ("val"; empty where none is chosen) and
    test the result ("test"; empty where nothing is tested). `num_frames`: of a clip."""
    train = index.split("train")
    test = index.split("test") if _uses_test(settings) else []
    if settings.select_on == "none":
        return {"train": train, "val": [], "test": test}
    train, validation = (train, test) if settings.select_on == "test" else hold_out(train, num_frames)
    return {"train": train, "val": validation, "test": test}


def evenly(count: int, limit: int | None) -> list[int]:
    """`limit` indices spread evenly over `count` items, or all of them."""
    limit = min(limit or count, count)
    return [index * count // limit for index in range(limit)]


def epoch_counts(sizes: list[int], weights: list[float], samples: int | None) -> list[int]:
    """How many samples an epoch draws from each of several datasets of `sizes`: `samples` (default: as many as there
    are) shared out by `weights` (default: by size), rounded so that they add up."""
    weights = weights or sizes
    total = sum(sizes) if samples is None else samples
    shares = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda d: counts[d] - shares[d])
    for d in by_remainder[: total - sum(counts)]:
        counts[d] += 1
    return counts


class EpochBatches(Sampler[list[int | tuple[int, int]]]):
    """This process's batches of one epoch: a shuffle that is a function of (seed, epoch), from any step on.

    `indices` lists each dataset's samples, `counts` how many of them an epoch draws. A dataset is gone through in
    shuffles of its own, one after the other over the epochs, so that all its samples are drawn equally often. A sample
    that an epoch draws again is the pair (index, how often before), so that it gets another random draw.

    A step's `batch_size` samples are cut into `world_size() * accumulate` equal parts; part p of process r is at
    `p * world_size() + r`, so that all processes together hold the same batch as a single one. The samples that do not
    fill a last batch are left out of the epoch.
    """

    def __init__(self, indices: list[list[int]], counts: list[int], batch_size: int, accumulate: int, seed: int):
        parts = world_size() * accumulate
        if batch_size % parts:
            raise InputError(
                f"batch_size {batch_size} does not divide into {world_size()} process(es) x accumulate {accumulate}; "
                f"use a multiple of {parts}"
            )
        if sum(counts) < batch_size:
            raise InputError(f"an epoch has {sum(counts)} samples, fewer than batch_size {batch_size}; lower it")
        self.indices, self.counts = indices, counts
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self.part_size = batch_size // parts
        self.steps = sum(counts) // batch_size
        self.epoch, self.first_step = 0, 0

    def start(self, epoch: int, first_step: int) -> None:
        """Make the next iteration that of `epoch`, without its first steps."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[int | tuple[int, int]]]:
        drawn = number_repeats(item for d in range(len(self.indices)) for item in self._draw(d))
        order = self._shuffle(len(drawn), self.seed * 1_000_003 + self.epoch)
        for step in range(self.first_step, self.steps):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * world_size() + rank()) * self.part_size
                yield [drawn[place] for place in order[start : start + self.part_size]]

    def _draw(self, d: int) -> list[int]:
        """The samples of dataset `d` in this epoch: all of them as often as they fit, and the next of its shuffles."""
        items, count = self.indices[d], self.counts[d]
        rest = count % len(items)
        drawn = items * (count // len(items))
        for place in range(self.epoch * rest, (self.epoch + 1) * rest):
            if place == self.epoch * rest or place % len(items) == 0:
                order = self._shuffle(len(items), ((self.seed * 1009 + d) * 1_000_003 + place // len(items)) % SEEDS)
            drawn.append(items[order[place % len(items)]])
        return drawn

    @staticmethod
    def _shuffle(count: int, seed: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def number_repeats(items: Iterable[int]) -> list[int | tuple[int, int]]:
    """The items, those that come again as pairs (item, how often before)."""
    seen: Counter[int] = Counter()
    numbered: list[int | tuple[int, int]] = []
    for item in items:
        numbered.append((item, seen[item]) if seen[item] else item)
        seen[item] += 1
    return numbered


class MixedDataset(ConcatDataset):
    """Several datasets of clips as one; item i is that of the dataset into whose range i falls.

    Item (i, n) is item i as it is drawn when the epoch has drawn it n times before.
    """

    def __getitem__(self, item: int | tuple[int, int]) -> ClipSample:
        item, occurrence = item if isinstance(item, tuple) else (item, 0)
        number = bisect_right(self.cumulative_sizes, item)
        start = self.cumulative_sizes[number - 1] if number else 0
        return self.datasets[number].draw(item - start, occurrence)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws the items get."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


def build_train_dataset(settings: Settings, sequences: list[Sequence], name: str, model: nn.Module) -> ClipDataset:
    """Clips of `sequences` as the preset trains on them."""
    transform = build_transform(settings.preset, True, settings.train_size, model.in_channels)
    if "enlarge_share" in signature(transform).parameters:
        transform = partial(transform, enlarge_share=settings.enlarge_share)
    border = find_preset(settings.preset).border
    rule = parse_range(settings.range)
    options = {"seed": settings.seed, "grey_range": rule, "stride": model.frame_stride, "target": model.target_index}
    options["augment"] = build_augmentations(settings.augment, settings.augment_options)
    return ClipDataset(sequences, model.num_frames, transform, border, name, **options)


def mask_notes(datasets: list[ClipDataset]) -> list[str]:
    """What is odd about the training masks, of which up to SAMPLED_MASKS of each dataset are read: a sentence each."""
    notes = []
    for dataset in datasets:
        sampled = [dataset.targets[item] for item in evenly(len(dataset), SAMPLED_MASKS)]
        paths = [dataset.sequences[number].frames[index].mask for number, index in sampled]
        shares = [float(read_mask(path).mean()) for path in paths]
        if max(shares) > LARGE_TARGET:
            largest = paths[shares.index(max(shares))]
            notes.append(
                f"warning: {max(shares):.0%} of {largest} is target, far more than small targets have; is it inverted? "
                "python -m datasets.check shows the masks"
            )
        if not max(shares):
            notes.append(f"warning: none of {len(paths)} training masks of {dataset.dataset_name} shows a target")
    return notes


def build_train_loader(
    settings: Settings, datasets: list[ClipDataset], device: torch.device
) -> tuple[DataLoader, EpochBatches]:
    """Loader of this process's share of the training batches, and the sampler that sets its epoch and first step."""
    mixed = MixedDataset(datasets)
    indices = [
        [start + item for item in evenly(len(dataset), settings.limit_train)]
        for start, dataset in zip([0, *mixed.cumulative_sizes], datasets, strict=False)
    ]
    counts = epoch_counts([len(items) for items in indices], settings.dataset_weights, settings.epoch_samples)
    batches = EpochBatches(indices, counts, settings.batch_size, settings.accumulate, settings.seed)
    pin = device.type == "cuda"
    loader = DataLoader(mixed, batch_sampler=batches, collate_fn=collate, pin_memory=pin, **_workers(settings, device))
    return loader, batches


def build_evaluated_set(
    settings: Settings, sequences: list[Sequence], name: str, model: nn.Module, limit: int | None, device: torch.device
) -> EvaluatedSet:
    """At most `limit` frames of `sequences`, evenly spread; of these this process evaluates every world_size()-th."""
    dataset = eval_dataset(sequences, model, asdict(settings), name)
    if count_workers(settings, device):
        dataset = replace(dataset, cache_bytes=EVAL_CACHE_BYTES)
    share = Subset(dataset, evenly(len(dataset), limit)[rank() :: world_size()])
    # lists of samples, as sizes may differ within a batch
    loader = DataLoader(share, batch_size=settings.val_batch_size, collate_fn=list, **_workers(settings, device))
    return EvaluatedSet(dataset, loader)


def build_norm_sets(
    settings: Settings, parts: list[list[Sequence]], names: list[str], model: nn.Module
) -> list[ClipDataset]:
    """Whole training images of each dataset, as the preset evaluates them, for `recalibrate_norm`; [] without it."""
    if settings.recalibrate_norm is None:
        return []
    if not norm_layers(model):
        raise InputError(f"{model.name} has no batch norms to estimate statistics for; leave --recalibrate_norm out")
    return [eval_dataset(part, model, asdict(settings), name) for part, name in zip(parts, names, strict=True)]


def count_workers(settings: Settings, device: torch.device) -> int:
    """How many processes load data for this one: as set, or for a GPU its share of the cores, and none for a CPU."""
    if settings.num_workers is not None:
        return settings.num_workers
    return min(GPU_WORKERS, cores_of_process()) if device.type == "cuda" else 0


def _workers(settings: Settings, device: torch.device) -> dict:
    count = count_workers(settings, device)
    if count:  # each worker is to take one core; set here, since in a forked process OpenCV would wait for its threads
        cv2.setNumThreads(1)
    return {"num_workers": count, "persistent_workers": count > 0, "worker_init_fn": leave_signals if count else None}


def stop_loading(loaders: list[DataLoader]) -> None:
    """End the loading processes, which free their frames; the next iteration starts others.

    After an error Python would send SIGTERM, which they ignore, and wait for ever.
    """
    for loader in loaders:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()
            loader._iterator = None


def leave_signals(_worker: int) -> None:
    """In a loading process, leave the signals that end a run to the process that trains; schedulers send them to all.

    That one ends its step and saves, for which it needs the data; `stop_loading` then ends the loading processes.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
