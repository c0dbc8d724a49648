"""Loaders of training batches and of frames to evaluate, and their loading processes."""

from dataclasses import replace
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from istd.datasets import ClipDataset, collate
from istd.train_script.batches import EpochBatches, MixedDataset, epoch_counts
from istd.train_script.settings import Settings
from istd.train_script.signals import ignore_signals
from istd.utils.items import batched, spread
from istd.utils.ranks import cores_of_process, rank, world_size

MAX_GPU_WORKERS = 8  # of a training process
EVAL_CACHE_BYTES = 64 * 2**20  # of each loading process: evaluation reads every frame once, in order


def build_train_loader(
    settings: Settings, datasets: list[ClipDataset], device: torch.device
) -> tuple[DataLoader, EpochBatches]:
    """Loader of this process's share of the training batches, and the sampler that sets its epoch and first step.

    Augmentations of the `datasets` are limited to the samples that `limit_train` leaves.
    """
    mixed = MixedDataset(datasets)
    indices = []
    for start, dataset in zip([0, *mixed.cumulative_sizes], datasets, strict=False):
        dataset.donors = spread(range(len(dataset)), settings.limit_train)
        indices.append([start + item for item in dataset.donors])
    counts = epoch_counts([len(items) for items in indices], settings.dataset_weights, settings.epoch_samples)
    batches = EpochBatches(indices, counts, settings.batch_size, settings.accumulate, settings.seed)
    pin = device.type == "cuda"
    loader = DataLoader(mixed, batch_sampler=batches, collate_fn=collate, pin_memory=pin, **_workers(settings, device))
    return loader, batches


def build_eval_loader(settings: Settings, dataset: ClipDataset, limit: int | None, device: torch.device) -> DataLoader:
    """Loader of at most `limit` frames of a dataset, evenly spread, of which this process gets every world_size()-th.

    It yields lists of samples, as sizes may differ within a batch.
    """
    if count_workers(settings, device):
        dataset = replace(dataset, cache_bytes=EVAL_CACHE_BYTES)
    batches = list(batched(spread(range(len(dataset)), limit)[rank() :: world_size()], settings.val_batch_size))
    return DataLoader(dataset, batch_sampler=batches, collate_fn=list, **_workers(settings, device))


def count_workers(settings: Settings, device: torch.device) -> int:
    """The number of loading processes of this process: as set, or on a GPU its share of the cores, on a CPU none."""
    if settings.num_workers is not None:
        return settings.num_workers
    return min(MAX_GPU_WORKERS, cores_of_process()) if device.type == "cuda" else 0


def _workers(settings: Settings, device: torch.device) -> dict[str, Any]:
    if not (count := count_workers(settings, device)):
        return {}
    cv2.setNumThreads(1)  # of each worker; set here, since in a forked process OpenCV would wait for its threads
    return {"num_workers": count, "persistent_workers": True, "worker_init_fn": ignore_signals}


def stop_loading(*loaders: DataLoader) -> None:
    """End the loading processes, which frees their frames; the next iteration starts new processes.

    After an error Python would send them SIGTERM, which they ignore, and wait forever.
    """
    for loader in loaders:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()
            loader._iterator = None
