"""Metrics and loss of the network on whole frames, by the loop that measures all maps (`observe_maps`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from istd.test_script.map_sources import MappedFrame
from istd.test_script.measurement import observe_maps
from istd.test_script.network_maps import loader_maps
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.tiling import pad_to_multiple
from istd.train_script.loading import stop_loading
from istd.train_script.losses import LossProgress
from istd.train_script.map_loss import MapLoss
from istd.train_script.norm_statistics import estimate_statistics, kept_statistics
from istd.train_script.signals import Interrupted
from istd.train_script.state import Run, Training
from istd.train_script.tensorboard import EXAMPLE_TAG, ExampleImages, PixelHistogram
from istd.utils.device import autocast
from istd.utils.distributed import gather_objects
from istd.utils.files import json_ready
from istd.utils.items import spread
from istd.utils.metrics import build_metric
from istd.utils.metrics.accumulator import mean_metrics

LOSS_DIGITS = 5  # significant digits; further digits depend on the number of threads


class Evaluation(NamedTuple):
    """The mean of every metric over the datasets that define it, the metrics of each dataset, and the mean loss."""

    metrics: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]]
    loss: float | None


def evaluate_sets(run: Run, training: Training, loaders: list[DataLoader], tag: str, step: int, amp: str) -> Evaluation:
    """Evaluate the network on the datasets of loaders, and write everything to TensorBoard under `tag`."""
    by_dataset, losses, scalars = {}, {}, {}
    for loader in loaders:
        name = loader.dataset.dataset_name
        tag_of_set = tag if len(loaders) == 1 else f"{tag}/{name}"
        by_dataset[name], losses[name] = evaluate(run, training, loader, tag_of_set, step, amp)
        scalars[tag_of_set] = by_dataset[name] | {"loss": losses[name]}
    metrics = json_ready(mean_metrics(by_dataset.values()))
    loss = None if None in losses.values() else float(f"{sum(losses.values()) / len(losses):.{LOSS_DIGITS}g}")
    scalars[tag] = metrics | {"loss": loss}
    if run.writer:
        for prefix, values in json_ready(scalars).items():
            for name, value in values.items():
                if value is not None:
                    run.writer.add_scalar(f"{prefix}/{name}", value, step)
        run.writer.flush()
    return Evaluation(metrics, json_ready(by_dataset), loss)


def evaluate(
    run: Run, training: Training, loader: DataLoader, tag: str, step: int, amp: str
) -> tuple[dict[str, float | None], float | None]:
    """Metrics and loss over a dataset; every process has a loader of its share, and all get the result."""
    settings, dataset = run.settings, loader.dataset
    progress = LossProgress(training.progress.epoch, step, settings.epochs, run.batches.steps)
    metric, histogram = build_metric(run.protocol), PixelHistogram()
    loss = MapLoss(settings.loss, settings.loss_options, progress, settings.batch_size)
    scale, examples = metric.protocol.scale, ExampleImages()

    def observe(mapped: MappedFrame) -> None:
        number, index = dataset.targets[mapped.item]
        sequence, frame = dataset.sequences[number], dataset.sequences[number].frames[index]
        metric.update(mapped.score(scale), mapped.mask, sequence.name, frame.name)
        loss.update(mapped.score("log_odds"), mapped.mask)
        if settings.tensorboard:
            histogram.update(mapped.score("log_odds"), mapped.mask)
        if run.writer:
            examples.update(mapped.score("probability"), mapped.mask, frame.image, sequence.name, frame.name)

    def source(_shards: list[list[int]]) -> Iterator[MappedFrame]:
        maps = loader_maps(loader, find_predictor(run, training, amp), {scale})
        return takewhile(lambda _: not run.stop.signum, maps)

    try:
        observe_maps(source, loader.batch_sampler, observe, tag, leave=False)
    finally:
        stop_loading(loader)
    signals, shares = zip(*gather_objects((run.stop.signum, (metric, loss, histogram))), strict=True)
    if any(signals):  # on any process: all of them stop
        raise Interrupted(max(signals))
    metric, loss, histogram = shares[0]
    for share in shares[1:]:
        for total, other in zip(shares[0], share, strict=True):
            total.merge(other)
    if run.writer:
        histogram.write(run.writer, f"{tag}/pixel precision-recall", step)
        examples.write(run.writer, f"{tag}/{EXAMPLE_TAG}", step)
    return metric.compute(), loss.compute()


def find_predictor(run: Run, training: Training, amp: str) -> Predictor:
    """The predictor of the network, in eval mode, built at the first call; its clips are already prepared."""
    if amp not in run.predictors:
        options = {"flip": run.settings.val_flip, "amp": amp, "batch_size": run.settings.val_batch_size}
        run.predictors[amp] = Predictor(training.weights(), torch.from_numpy, run.device, **options)
    training.weights().eval()
    return run.predictors[amp]


@contextmanager
def recalibrated(run: Run, training: Training) -> Iterator[None]:
    """Use batch-norm statistics of `norm_sets`, if there are any; afterwards, restore the statistics of training.

    Every process estimates them on all images, so that they are the same.
    """
    if not run.norm_sets:
        yield
        return
    network = training.weights()
    with kept_statistics(network):
        with autocast(run.device, run.amp):
            estimate_statistics(network, norm_batches(run, network.size_multiple))
        yield


def norm_batches(run: Run, multiple: int) -> Iterator[torch.Tensor]:
    """Clips of `norm_sets` on the device, by size, in batches of the training's size."""
    waiting: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for dataset in run.norm_sets:
        for item in spread(range(len(dataset)), run.settings.recalibrate_norm):
            clip = pad_to_multiple(dataset[item].clip[None], multiple)
            clips = waiting.setdefault(tuple(clip.shape), [])
            clips.append(clip)
            if len(clips) == run.settings.batch_size // run.settings.accumulate:
                yield torch.cat(waiting.pop(tuple(clip.shape))).to(run.device)
    for clips in waiting.values():
        yield torch.cat(clips).to(run.device)
