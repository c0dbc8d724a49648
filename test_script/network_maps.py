"""The source of score maps that runs a network over a dataset; see `map_sources`."""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from torch.utils.data import DataLoader, Dataset

from istd.test_script.map_sources import MappedFrame
from istd.test_script.predictor import Predictor
from istd.utils.errors import InputError
from istd.utils.items import batched


def network_maps(
    shards: list[list[int]],
    dataset: Dataset,
    predictor: Predictor,
    scales: set[str],
    num_workers: int = 0,
) -> Iterator[MappedFrame]:
    """Run a network over the items of `shards` of a dataset of `ClipSample`; `scales`: of the maps to compute."""
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
    """Run a network over the items in a loader's `batch_sampler`; the loader yields them as lists of `ClipSample`."""
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

    A worker gets complete shards, so that it decodes frames that neighbouring clips share only once.
    """
    step = max(1, num_workers)
    shares = (shards[worker::step] for worker in range(step))
    streams = [[batch for shard in share for batch in batched(shard, batch_size)] for share in shares]
    return (batch for batches in zip_longest(*streams) for batch in batches if batch is not None)
