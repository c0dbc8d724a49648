"""Which samples make up the batches of an epoch: a function of (seed, epoch), for several datasets and processes."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import ConcatDataset, Sampler

from istd.datasets import ClipSample
from istd.train_script.settings import SEEDS
from istd.utils.errors import InputError
from istd.utils.names import counted
from istd.utils.ranks import rank, world_size

Draw = int | tuple[int, int]  # an item, or (item, how often the epoch drew it before)


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


class EpochBatches(Sampler[list[Draw]]):
    """This process's batches of an epoch: a shuffle that is a function of (seed, epoch), from any step on.

    `indices` lists the samples of each dataset, `counts` how many of them an epoch draws. The epochs go through
    consecutive shuffles of a dataset, so that all its samples are drawn equally often. A sample that an epoch draws
    again is the pair (index, how often before), so that its random draws differ.

    A step's `batch_size` samples are cut into `world_size() * accumulate` equal parts; part p of process r is at
    `p * world_size() + r`, so that all processes together hold the batch of a single process. The samples that do not
    fill a last batch are left out of the epoch.
    """

    def __init__(self, indices: list[list[int]], counts: list[int], batch_size: int, accumulate: int, seed: int):
        parts = world_size() * accumulate
        if batch_size % parts:
            divisor = f"{counted(world_size(), 'process')} x accumulate {accumulate}"
            raise InputError(f"batch_size {batch_size} does not divide into {divisor}; use a multiple of {parts}")
        if sum(counts) < batch_size:
            samples = counted(sum(counts), "sample")
            raise InputError(f"an epoch has {samples}, fewer than batch_size {batch_size}; lower it")
        self.indices, self.counts = indices, counts
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self.part_size = batch_size // parts
        self.steps = sum(counts) // batch_size
        self.epoch, self.first_step = 0, 0

    def start(self, epoch: int, first_step: int) -> None:
        """Let the next iteration begin at step `first_step` of `epoch`."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        drawn = number_repeats(item for d in range(len(self.indices)) for item in self._draw(d))
        order = _shuffle(len(drawn), self.seed * 1_000_003 + self.epoch)
        for step in range(self.first_step, self.steps):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * world_size() + rank()) * self.part_size
                yield [drawn[place] for place in order[start : start + self.part_size]]

    def _draw(self, d: int) -> list[int]:
        """The samples of dataset `d` in this epoch: all samples as often as they fit, then the next of its shuffles."""
        items, count = self.indices[d], self.counts[d]
        remainder = count % len(items)
        drawn = items * (count // len(items))
        for place in range(self.epoch * remainder, (self.epoch + 1) * remainder):
            if place == self.epoch * remainder or place % len(items) == 0:
                order = _shuffle(len(items), ((self.seed * 1009 + d) * 1_000_003 + place // len(items)) % SEEDS)
            drawn.append(items[order[place % len(items)]])
        return drawn


def _shuffle(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def number_repeats(items: Iterable[int]) -> list[Draw]:
    """The items, with repeated items as pairs (item, how often before)."""
    seen: Counter[int] = Counter()
    numbered: list[Draw] = []
    for item in items:
        numbered.append((item, seen[item]) if seen[item] else item)
        seen[item] += 1
    return numbered


class MixedDataset(ConcatDataset):
    """A concatenation of datasets of clips, whose items are `Draw`s and whose epoch can be set."""

    def __getitem__(self, item: Draw) -> ClipSample:
        item, occurrence = item if isinstance(item, tuple) else (item, 0)
        number = bisect_right(self.cumulative_sizes, item)
        start = self.cumulative_sizes[number - 1] if number else 0
        return self.datasets[number].draw(item - start, occurrence)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws the items get."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)
