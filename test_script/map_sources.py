"""Sources of score maps: a network that runs over a dataset, or files that somebody's method wrote.

A source is called with lists of frame numbers, its shards, and yields a `MappedFrame` for each of these frames, in any
order of the shards and in order within a shard. Whoever measures the maps does not know where they come from.
"""

from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import scipy
from torch.utils.data import DataLoader, Dataset

from istd.test_script.predictor import Predictor, ScoreMaps
from istd.test_script.predictor.preparation import batched
from istd.utils.errors import InputError
from istd.utils.metrics.saved_maps import Pair, read_pair


class MappedFrame(NamedTuple):
    """Frame number `item` of a set with its score maps and its true mask, bool [H, W]."""

    item: int
    maps: ScoreMaps
    mask: np.ndarray

    def score(self, scale: str) -> np.ndarray:
        """The map [H, W] on the scale "probability" or "logit", computed from the other one where only that is known.

        "log_odds": the logit of the probability, which ranks pixels whose probabilities round to 1 as well.
        """
        probability, logits, log_odds = self.maps
        if scale == "probability":
            return scipy.special.expit(logits) if probability is None else probability
        if scale == "logit":
            return scipy.special.logit(probability) if logits is None else logits
        if log_odds is not None:
            return log_odds
        return logits if probability is None else scipy.special.logit(probability.astype(np.float64))


MapSource = Callable[[list[list[int]]], Iterator[MappedFrame]]


def network_maps(
    shards: list[list[int]],
    dataset: Dataset,
    predictor: Predictor,
    scales: set[str],
    num_workers: int = 0,
) -> Iterator[MappedFrame]:
    """Run a network over the items of `shards` of a dataset of `ClipSample`; `scales`: of the maps that are needed."""
    batches = list(loader_batches(shards, predictor.batch_size, num_workers))
    if not batches:
        return
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=list,  # sizes may differ within a batch
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers and predictor.device.type == "cuda" else None,
    )
    yield from loader_maps(loader, predictor, scales)


def loader_maps(loader: DataLoader, predictor: Predictor, scales: set[str]) -> Iterator[MappedFrame]:
    """Run a network over the items that a loader's `batch_sampler` lists, of which it gives lists of `ClipSample`."""
    for items, samples in zip(loader.batch_sampler, loader, strict=True):
        masks = [sample.mask[0].numpy() > 0 for sample in samples]
        maps = predictor.score_maps(
            [sample.clip for sample in samples],
            [mask.shape for mask in masks],
            probability="probability" in scales,
            logit="logit" in scales,
            log_odds=True,
        )
        for sample, frame_maps in zip(samples, maps, strict=True):
            if not all(np.isfinite(scores).all() for scores in frame_maps if scores is not None):
                raise InputError(
                    f"the network's map of {sample.sequence}/{sample.frame} is not finite; check the weights, "
                    "and leave out --amp: large values overflow in fp16"
                )
        yield from map(MappedFrame, items, maps, masks)


def loader_batches(shards: list[list[int]], batch_size: int, num_workers: int) -> Iterator[list[int]]:
    """Batches of items for a `DataLoader`, which deals them to its workers in turn.

    A worker gets complete shards, so that it decodes the frames that neighbouring clips share once.
    """
    step = max(1, num_workers)
    shares = (shards[worker::step] for worker in range(step))
    streams = [[batch for shard in share for batch in batched(shard, batch_size)] for share in shares]
    return (batch for batches in zip_longest(*streams) for batch in batches if batch is not None)


def saved_maps(
    shards: list[list[int]],
    pairs: list[Pair],
    scale: str = "probability",
    two_values: tuple[float, float] | None = None,
) -> Iterator[MappedFrame]:
    """Read the saved maps and masks of the items of `shards`; `scale` and `two_values`: see `map_files.read_scores`."""
    for item in chain.from_iterable(shards):
        score, mask = read_pair(pairs[item], scale, two_values)
        yield MappedFrame(item, ScoreMaps(None, score) if scale == "logit" else ScoreMaps(score, None), mask)
