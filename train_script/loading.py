"""Loaders of training batches and of frames to evaluate, and the processes behind them."""

from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader

from istd.datasets import ClipDataset, collate
from istd.test_script.predictor.preparation import batched
from istd.train_script.batches import EpochBatches, MixedDataset, epoch_counts, evenly
from istd.train_script.settings import Settings
from istd.train_script.signals import ignore_signals
from istd.utils.distributed import cores_of_process, rank, world_size

MAX_GPU_WORKERS = 8  # of a training process
EVAL_CACHE_BYTES = 64 * 2**20  # of each loading process: evaluation reads frames in order, and once


class EvaluatedSet(NamedTuple):
    """A dataset of clips to evaluate on, and the loader of the frames that this process evaluates, in lists."""

    dataset: ClipDataset
    loader: DataLoader


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
    settings: Settings, dataset: ClipDataset, limit: int | None, device: torch.device
) -> EvaluatedSet:
    """At most `limit` frames of a dataset, evenly spread; of these this process evaluates every world_size()-th."""
    if count_workers(settings, device):
        dataset = replace(dataset, cache_bytes=EVAL_CACHE_BYTES)
    batches = list(batched(evenly(len(dataset), limit)[rank() :: world_size()], settings.val_batch_size))
    # lists of samples, as sizes may differ within a batch
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=list, **_workers(settings, device))
    return EvaluatedSet(dataset, loader)


def count_workers(settings: Settings, device: torch.device) -> int:
    """How many processes load data for this one: as set, or for a GPU its share of the cores, and none for a CPU."""
    if settings.num_workers is not None:
        return settings.num_workers
    return min(MAX_GPU_WORKERS, cores_of_process()) if device.type == "cuda" else 0


def _workers(settings: Settings, device: torch.device) -> dict[str, Any]:
    if not (count := count_workers(settings, device)):
        return {}
    cv2.setNumThreads(1)  # of each worker; set here, since in a forked process OpenCV would wait for its threads
    return {"num_workers": count, "persistent_workers": True, "worker_init_fn": ignore_signals}


def stop_loading(*loaders: DataLoader) -> None:
    """End the loading processes, which free their frames; the next iteration starts others.

    After an error Python would send SIGTERM, which they ignore, and wait for ever.
    """
    for loader in loaders:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()
            loader._iterator = None
