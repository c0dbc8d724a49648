"""Train a network: `python -m train_script.train --help`."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from istd.datasets import DatasetIndex
from istd.datasets.usable import data_lines
from istd.models import build_model, complete_options, is_external, load_weights, try_network
from istd.models.weights import load_fitting, load_pretrained_backbone
from istd.train_script import data, run_folder
from istd.train_script.data_parallel import ProcessAverage, broadcast_weights
from istd.train_script.graphs import uses_graphs
from istd.train_script.holdout import describe_holdout
from istd.train_script.optim import build_optimizer, build_schedule, freeze
from istd.train_script.recompute import recompute_blocks
from istd.train_script.run_folder import LAST, Log
from istd.train_script.run_record import check_data, describe_data, describe_record, write_record
from istd.train_script.settings import DEMO, EARLIER, Settings, changed_settings, parse_command_line
from istd.train_script.several_seeds import starts_of_seeds, train_seeds
from istd.train_script.starting_point import StartingPoint, already_begun, find_start
from istd.train_script.state import Interrupted, Training, caught_signals, exit_status, restore
from istd.train_script.synced_layers import synchronise_layers
from istd.train_script.tensorboard import open_writer
from istd.train_script.trainer import Run, run_epochs, validate_start
from istd.train_script.wandb_writer import WandbWriter
from istd.train_script.weight_average import WeightAverage
from istd.utils.checkpoint import Checkpoint
from istd.utils.config import write_settings
from istd.utils.cuda_graphs import GraphRunner
from istd.utils.device import amp_name, choose_amp, float32_precision
from istd.utils.distributed import is_main, process_group, world_size
from istd.utils.errors import InputError, run_main
from istd.utils.folder_lock import locked_folder
from istd.utils.metrics import build_metric
from istd.utils.metrics.accumulator import LOWER_IS_BETTER
from istd.utils.names import counted

FEW_STEPS = 200  # fewer hardly train a network
SELECTION_METRICS = ("video_mean", "iou", "pd")  # the first that a protocol defines chooses the best epoch
MEMORY_ADVICE = "lower --batch_size and raise --accumulate as much, or lower --train_size"  # of `run_main`


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; returns 0 when done, and after a signal, with everything saved, `exit_status`."""
    config, given = parse_command_line(argv)
    starts = starts_of_seeds(config, given) if given.get("seeds") else [find_start(config, given)]
    settings = starts[0].settings
    precision = float32_precision(settings.tf32, benchmark=True)  # training samples have one size
    with process_group(settings.device) as device, precision:
        if len(starts) > 1:
            return train_seeds(starts, lambda start: train(start, device, Log()))
        return train(starts[0], device, Log())


def train(start: StartingPoint, device: torch.device, log: Log) -> int:
    """One run, from the data to the final metrics."""
    settings, folder, saved, notes = start
    if settings.amp == "fp16" and device.type != "cuda":
        raise InputError("amp fp16 needs a CUDA GPU for its loss scaling; use --amp bf16, auto or none")
    indices = open_datasets(settings, saved)
    network = build_network(settings, device, saved, notes)
    protocol, select_by = choose_selection(settings, indices)
    splits = [data.split_sequences(settings, index, network.num_frames) for index in indices]
    names = [index.info.name for index in indices]
    train_data = [
        data.build_train_dataset(settings, split["train"], name, network)
        for name, split in zip(names, splits, strict=True)
    ]
    train_loader, batches = data.build_train_loader(settings, train_data, device)

    def evaluated(part: str, limit: int | None) -> list[data.EvaluatedSet]:
        return [
            data.build_evaluated_set(settings, split[part], name, network, limit, device)
            for name, split in zip(names, splits, strict=True)
        ]

    data_record = describe_data(indices, splits)
    if saved:
        check_selection(saved, settings, indices)
        check_data(saved, data_record)
    with locked_folder(folder) if is_main() else nullcontext():
        if is_main():
            if not saved and (folder / LAST).exists():  # written since this command looked
                raise already_begun(folder)
            run_folder.check_space(folder, network, settings.keep_best)
            log.path = folder / "train.log"
        amp = choose_amp(settings.amp, device)
        training = build_training(settings, network, device, amp)
        if saved:
            continue_from(saved, training, settings, folder, log)
        else:
            start_late(training, settings, batches.steps)
        progress = training.progress
        if is_main():
            session = write_record(folder, data_record, progress.epoch, progress.step)
            write_settings(folder / "settings.yaml", settings, describe_record(data_record, session))
        with caught_signals() as stop:
            run = Run(
                settings=settings,
                folder=folder,
                device=device,
                amp=amp,
                protocol=protocol,
                select_by=select_by,
                train_loader=train_loader,
                batches=batches,
                data_record=data_record,
                val_sets=evaluated("val", settings.limit_val) if settings.select_on != "none" else [],
                test_sets=evaluated("test", None) if settings.final_test else [],
                norm_sets=data.build_norm_sets(settings, [split["train"] for split in splits], names, network),
                schedule=build_schedule(settings, batches.steps),
                log=log,
                stop=stop,
                writer=choose_writer(settings, folder, progress.epoch * batches.steps + progress.step),
            )
            announce(run, indices, network, [*notes, *data.mask_notes(train_data)])
            try:
                if settings.init_weights and is_new(training, settings):
                    validate_start(run, training)
                run_epochs(run, training)
            except Interrupted as interruption:
                log(
                    f"interrupted in epoch {progress.epoch + 1} after step {progress.step} of "
                    f"{batches.steps}; saved in {folder / LAST}; continue with --resume {folder}"
                )
                return exit_status(interruption.args[0])
            finally:
                data.stop_loading([train_loader, *(part.loader for part in (*run.val_sets, *run.test_sets))])
                if run.writer:
                    run.writer.close()
        return 0


def choose_writer(settings: Settings, folder: Path, first_step: int) -> Any:
    """TensorBoard's writer, or one with its methods for Weights & Biases, on the main process; None if turned off."""
    if not settings.tensorboard or not is_main():
        return None
    if settings.log == "wandb":
        return WandbWriter(folder, asdict(settings))
    return open_writer(folder, first_step, asdict(settings))


def open_datasets(settings: Settings, saved: Checkpoint | None) -> list[DatasetIndex]:
    """The datasets of the settings; if a run's own place of them is no more, the error says how to give another."""
    try:
        return data.open_datasets(settings)
    except InputError as error:
        if saved and saved.settings.get("dataset") == settings.dataset:
            raise InputError(
                f"{saved.path} names its dataset {settings.dataset}, which cannot be opened; if it has moved, give its "
                f"place with --dataset (or --data_root): {error}"
            ) from error
        raise


def build_network(settings: Settings, device: torch.device, saved: Checkpoint | None, notes: list[str]) -> nn.Module:
    """The network on the device, with its first weights unless saved ones will follow; adds what is odd to `notes`."""
    torch.manual_seed(settings.seed)
    network = build_model(settings.model, settings.interface, **settings.model_options)
    notes += try_network(network, settings.train_size) if is_external(settings.model) else []
    if settings.train_size % network.size_multiple:
        raise InputError(
            f"train_size is {settings.train_size}, {network.name} expects a multiple of {network.size_multiple}"
        )
    if settings.init == "low_prior":
        network.init_low_prior()
    if settings.pretrained_backbone and not saved:
        load_pretrained_backbone(network, settings.pretrained_backbone)
    if settings.init_weights and not saved and settings.init_partial:
        left_out = load_fitting(network, settings.init_weights)
        notes += [f"{settings.init_weights} does not fill all of {network.name}: {left_out}"] if left_out else []
    elif settings.init_weights and not saved:
        load_weights(network, settings.init_weights)
    return network.to(device)


def build_training(
    settings: Settings, network: nn.Module, device: torch.device, amp: torch.dtype | None = None
) -> Training:
    """The network with all that trains it; in several processes, equal on all of them."""
    if world_size() > 1:
        broadcast_weights(network)
        if settings.sync_bn:
            synchronise_layers(network)
    if settings.freeze:
        freeze(network, settings.freeze)
    ema = WeightAverage(network, settings.ema) if settings.ema else None
    if settings.grad_checkpoint:
        if settings.sync_bn and world_size() > 1:
            raise InputError("grad_checkpoint cannot repeat the draws of sync_bn; leave one of them out")
        recompute_blocks(network)
    model = network
    if uses_graphs(settings, device):
        model = GraphRunner(network, required=bool(settings.graphs))
    elif settings.compile:
        model = torch.compile(network)
    optimizer = build_optimizer(network, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    average = ProcessAverage(network) if world_size() > 1 else None
    return Training(network, model, optimizer, scaler, ema, average=average)


def continue_from(saved: Checkpoint, training: Training, settings: Settings, folder: Path, log: Log) -> None:
    """Take up a run where its checkpoint left it, and say where that is and what was changed since."""
    if saved.model_name != training.network.name:
        raise InputError(
            f"{saved.path} is a run of {saved.model_name}, expected {training.network.name}; check --model"
        )
    # checkpoints of earlier versions lack the options that the network got since then
    before, now = (complete_options(settings.model, options) for options in (saved.options, training.network.options))
    if before != now:
        raise InputError(f"{saved.path} is a run of a network with options {before}, expected {now}")
    for name, default in {"freeze": [], "lr_scales": {}, "decay_norms": True}.items():
        before, now = saved.settings.get(name, default), getattr(settings, name)
        if before != now:  # the optimiser's state is by groups
            raise InputError(
                f"{saved.path} was trained with {name} {before}, now it is {now}; leave it as it was, or begin another "
                "run with --init_weights"
            )
    restore(training, saved.weights, saved.training)
    progress = training.progress
    log(f"continuing {saved.path} after epoch {progress.epoch}" + f", step {progress.step}" * (progress.step > 0))
    before = (EARLIER if world_size() > 1 else {}) | saved.settings
    if "data" in saved.training:  # the same data, wherever it lies
        before.pop("dataset", None)
    if changes := changed_settings(before, settings):
        log(f"warning: settings changed since then, the run will differ from an unbroken one: {', '.join(changes)}")
    if is_main():
        run_folder.forget_later_metrics(folder, progress.epoch)


def start_late(training: Training, settings: Settings, steps_per_epoch: int) -> None:
    """Begin at `start_epoch` of the schedule, with EMA weights as settled as they would be there."""
    training.progress.epoch = settings.start_epoch
    training.ema_updates = settings.start_epoch * steps_per_epoch


def is_new(training: Training, settings: Settings) -> bool:
    """Whether the weights are those that the run starts from, not measured yet."""
    progress = training.progress
    return (progress.epoch, progress.step) == (settings.start_epoch, 0) and progress.start is None


def choose_selection(settings: Settings, indices: list[DatasetIndex]) -> tuple[str, str]:
    """The protocol of validation and the metric that chooses the best epoch.

    They are those asked for, else the protocol that all datasets have in common, or standard, and the first of
    SELECTION_METRICS that it defines.
    """
    protocols = {settings.protocol or index.info.protocol or "standard" for index in indices}
    protocol = protocols.pop() if len(protocols) == 1 else "standard"
    defined = [name for name, value in build_metric(protocol).compute().items() if value is not None]
    if settings.select_by is None:
        return protocol, next(name for name in SELECTION_METRICS if name in defined)
    choices = [name for name in defined if name not in LOWER_IS_BETTER]
    if settings.select_by not in choices:
        raise InputError(
            f"select_by is {settings.select_by!r}, expected one of {', '.join(choices)} (protocol {protocol})"
        )
    return protocol, settings.select_by


def check_selection(saved: Checkpoint, settings: Settings, indices: list[DatasetIndex]) -> None:
    """Raise `InputError` if a run would go on to choose its best epoch by another metric, or on other images."""
    names = ("protocol", "select_by", "select_on")
    options = ", ".join(f"--{name}" for name in names)
    before = replace(settings, **{name: saved.settings[name] for name in names if name in saved.settings})
    old, new = ((*choose_selection(chosen, indices), chosen.select_on) for chosen in (before, settings))
    if old != new:
        raise InputError(
            f"the best epochs of {saved.path} were chosen by {old[1]} ({old[0]}) on {old[2]}, now they would be by "
            f"{new[1]} ({new[0]}) on {new[2]}: such scores do not compare; leave {options} as they were, or "
            "begin another run with --experiment_name and --init_weights"
        )


def announce(run: Run, indices: list[DatasetIndex], network: nn.Module, notes: list[str]) -> None:
    """Log what is going to be trained on what, and how."""
    settings, log = run.settings, run.log
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    frames = f"{network.num_frames} frames" if network.num_frames > 1 else "single frames"
    share = settings.batch_size // world_size() // settings.accumulate
    log(f"train {settings.model} ({millions:.1f} M parameters, {frames})")
    for index, count in zip(indices, run.batches.counts, strict=True):
        log(f"on {index.summary}; {count} samples an epoch")
    for dataset in run.train_loader.dataset.datasets:
        for line in data_lines(dataset):
            log(line)
    if settings.dataset == DEMO:
        log(
            "the demo's sequences are generated; to train on real ones: --dataset NAME|FOLDER, or --config (see --help)"
        )
    log(
        f"{counted(settings.epochs, 'epoch')} of {counted(run.batches.steps, 'step')}; batch {settings.batch_size} = "
        f"{counted(world_size(), 'process')} x {counted(settings.accumulate, 'accumulation step')} x {share}; "
        f"preset {settings.preset}, {settings.train_size} px; {settings.loss}; "
        f"{settings.optimizer}, lr {settings.lr:g} ({settings.schedule}); "
        f"{describe_computing(run)}"
    )
    if settings.select_on == "none":
        log(
            "selection: none; all training images are trained on, and the last weights are the result; the test set is "
            f"{'evaluated once, at the end' if settings.final_test else 'not used'}"
        )
    elif settings.select_on == "test":
        log(
            f"selection: best {run.select_by} ({run.protocol}) ON THE TEST SET, as in the published recipe; "
            "the test metrics of the chosen epoch are optimistic"
        )
    else:
        log(
            f"selection: best {run.select_by} ({run.protocol}) on "
            + ", ".join(
                describe_holdout(index.info.kind, index.info.name, index.split("train"), part.dataset.sequences)
                for part, index in zip(run.val_sets, indices, strict=True)
            )
            + ", held out; "
            f"the test set is {'evaluated once, at the end' if settings.final_test else 'not used'}"
        )
    total = (settings.epochs - settings.start_epoch) * run.batches.steps
    if total < FEW_STEPS:
        notes = [
            *notes,
            f"note: the run has {counted(total, 'step')}; a training takes hundreds to thousands; "
            "--epochs, or --epoch_samples (each draw of a sample is another crop), give it more",
        ]
    for note in notes:
        log(note)
    log(f"output: {run.folder}")


def describe_computing(run: Run) -> str:
    """The device and how it computes, for the log."""
    settings, name = run.settings, "float32" if run.amp is None else amp_name(run.amp)
    if run.device.type != "cuda":
        return f"{run.device}, {name}"
    workers, rounding = data.count_workers(settings, run.device), "TF32" if settings.tf32 else "true float32"
    form = ", compiled" if settings.compile else ""
    if uses_graphs(settings, run.device):
        form = ", CUDA graphs"
    elif world_size() > 1 and settings.sync_bn and settings.graphs is None and not settings.compile:
        form = ", WITHOUT CUDA graphs because of sync_bn, which may cost more than a second GPU gains"
    return (
        f"{run.device} ({torch.cuda.get_device_name(run.device)}), {name}{form}, {workers} loading processes; "
        f"float32 products in {rounding}, cuDNN's algorithms by trial, so that runs are repeatable up to rounding only"
    )


if __name__ == "__main__":
    run_main(main)
