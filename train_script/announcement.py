"""The lines that a run logs before it trains: its data, its settings, and how its result is chosen."""

import torch
from torch import nn

from istd.datasets import DatasetIndex
from istd.datasets.clips import data_lines
from istd.train_script.build import uses_graphs
from istd.train_script.holdout import describe_holdout
from istd.train_script.loading import count_workers
from istd.train_script.settings import DEMO
from istd.train_script.state import Run
from istd.utils.device import amp_name
from istd.utils.names import counted
from istd.utils.ranks import world_size

FEW_STEPS = 200  # fewer hardly train a network


def announce(run: Run, indices: list[DatasetIndex], network: nn.Module, notes: list[str]) -> None:
    """Log the network, the data, and the settings of a run, then the `notes`."""
    settings, log, steps = run.settings, run.log, run.batches.steps
    datasets = run.train_loader.dataset.datasets
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    frames = f"{network.num_frames} frames" if network.num_frames > 1 else "single frames"
    log(f"train {settings.model} ({millions:.1f} M parameters, {frames})")
    for index, count in zip(indices, run.batches.counts, strict=True):
        log(f"on {index.summary}; {counted(count, 'sample')} an epoch")
    for line in (line for dataset in datasets for line in data_lines(dataset)):
        log(line)
    if settings.dataset == DEMO:
        log(
            "the demo's sequences are generated; to train on real ones: --dataset NAME|FOLDER, or --config (see --help)"
        )
    log(
        f"{counted(settings.epochs, 'epoch')} of {counted(steps, 'step')}; batch {settings.batch_size} = "
        f"{counted(world_size(), 'process')} x {counted(settings.accumulate, 'accumulation step')} x "
        f"{run.batches.part_size}; "
        f"preset {settings.preset}, {settings.train_size} px; {settings.loss}; "
        f"{settings.optimizer}, lr {settings.lr:g} ({settings.schedule}); "
        f"{describe_computing(run)}"
    )
    log(f"selection: {describe_selection(run, indices)}")
    total = (settings.epochs - settings.start_epoch) * steps
    few = (
        f"note: the run has {counted(total, 'step')}; a training takes hundreds to thousands; "
        "--epochs, or --epoch_samples (each draw of a sample is another crop), give it more"
    )
    for note in [*notes, *([few] if total < FEW_STEPS else [])]:
        log(note)
    log(f"output: {run.folder}")


def describe_selection(run: Run, indices: list[DatasetIndex]) -> str:
    """How the result of the run is chosen, and what the test set is used for."""
    tested = "evaluated once, at the end" if run.settings.final_test else "not used"
    if run.settings.select_on == "none":
        return (
            f"none; all training images are trained on, and the last weights are the result; the test set is {tested}"
        )
    if run.settings.select_on == "test":
        return (
            f"best {run.select_by} ({run.protocol}) ON THE TEST SET, as in the published recipe; "
            "the test metrics of the chosen epoch are optimistic"
        )
    held_out = ", ".join(
        describe_holdout(index.info.kind, index.info.name, index.split("train"), loader.dataset.sequences)
        for loader, index in zip(run.val_loaders, indices, strict=True)
    )
    return f"best {run.select_by} ({run.protocol}) on {held_out}, held out; the test set is {tested}"


def describe_computing(run: Run) -> str:
    """The device and how it computes, for the log."""
    settings, name = run.settings, amp_name(run.amp).replace("none", "float32")
    if run.device.type != "cuda":
        return f"{run.device}, {name}"
    workers, rounding = count_workers(settings, run.device), "TF32" if settings.tf32 else "true float32"
    form = ", compiled" if settings.compile else ""
    if uses_graphs(settings, run.device):
        form = ", CUDA graphs"
    elif world_size() > 1 and settings.sync_bn and settings.graphs is None and not settings.compile:
        form = ", WITHOUT CUDA graphs because of sync_bn, which may cost more than a second GPU gains"
    return (
        f"{run.device} ({torch.cuda.get_device_name(run.device)}), {name}{form}, {workers} loading processes; "
        f"float32 products in {rounding}, cuDNN's algorithms by trial, so that runs are repeatable up to rounding only"
    )
