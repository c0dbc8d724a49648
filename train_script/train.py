"""Train a network: `python -m train_script.train --help`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from istd.models import complete_options
from istd.train_script import data, run_folder
from istd.train_script.announcement import announce
from istd.train_script.build import build_network, build_training
from istd.train_script.loading import build_eval_loader, build_train_loader, stop_loading
from istd.train_script.optim import build_schedule
from istd.train_script.run_folder import LAST, Log
from istd.train_script.run_record import check_data, describe_data, describe_record, write_record
from istd.train_script.selection import check_selection, choose_selection
from istd.train_script.settings import Settings, changed_settings, parse_command_line
from istd.train_script.several_seeds import starts_of_seeds, train_seeds
from istd.train_script.signals import Interrupted, caught_signals, exit_status
from istd.train_script.starting_point import StartingPoint, find_start
from istd.train_script.state import Run, Training, restore
from istd.train_script.tensorboard import open_writer
from istd.train_script.trainer import run_epochs, validate_start
from istd.train_script.wandb_writer import WandbWriter
from istd.utils.checkpoint import Checkpoint
from istd.utils.config import write_settings
from istd.utils.device import choose_amp, float32_precision
from istd.utils.distributed import process_group
from istd.utils.errors import InputError, run_main
from istd.utils.folder_lock import locked_folder
from istd.utils.ranks import is_main, world_size

MEMORY_ADVICE = "lower --batch_size and raise --accumulate as much, or lower --train_size"  # of `run_main`


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; returns 0 when done, and after a signal, with everything saved, `exit_status`."""
    config, options = parse_command_line(argv)
    starts = starts_of_seeds(config, options) if options.get("seeds") else [find_start(config, options)]
    settings = starts[0].settings
    precision = float32_precision(settings.tf32, benchmark=True)  # training samples have one size
    with process_group(settings.device) as device, precision:
        if len(starts) > 1:
            return train_seeds(starts, lambda start: train(start, device, Log()))
        return train(starts[0], device, Log())


def train(start: StartingPoint, device: torch.device, log: Log) -> int:
    """A run, from the data to the final metrics."""
    settings, folder, saved, notes = start
    if settings.amp == "fp16" and device.type != "cuda":
        raise InputError("amp fp16 needs a CUDA GPU for its loss scaling; use --amp bf16, auto or none")
    network, odd = build_network(settings, device, continued=saved is not None)
    indices = data.open_datasets(settings, saved, network.num_frames)
    protocol, select_by = choose_selection(settings, indices)
    splits = {index.info.name: data.split_sequences(settings, index, network.num_frames) for index in indices}
    train_sets = [data.build_train_dataset(settings, split["train"], name, network) for name, split in splits.items()]
    train_loader, batches = build_train_loader(settings, train_sets, device)
    data_record = describe_data(indices, splits)
    if saved:
        check_selection(saved, settings, indices)
        check_data(saved, data_record)
    with locked_folder(folder):
        if is_main():
            if not saved:
                run_folder.check_unused(folder)  # again: another command may have begun a run since this one looked
            run_folder.check_space(folder, network, settings.keep_best)
            log.path = folder / "train.log"
        amp = choose_amp(settings.amp, device)
        training = build_training(settings, network, device, amp)
        if saved:
            continue_from(saved, training, settings, folder, log)
        else:  # the EMA counts the updates that the skipped epochs would have made
            training.progress.epoch = settings.start_epoch
            training.ema_updates = settings.start_epoch * batches.steps
        progress = training.progress
        if is_main():
            session = write_record(folder, data_record, progress.epoch, progress.step)
            write_settings(folder / "settings.yaml", settings, describe_record(data_record, session))

        def loaders(part: str, limit: int | None) -> list[DataLoader]:
            datasets = data.build_eval_datasets(settings, splits, part, network)
            return [build_eval_loader(settings, dataset, limit, device) for dataset in datasets]

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
                val_loaders=loaders("val", settings.limit_val) if settings.select_on != "none" else [],
                test_loaders=loaders("test", None) if settings.final_test else [],
                norm_sets=data.build_norm_datasets(settings, splits, network),
                schedule=build_schedule(settings, batches.steps),
                log=log,
                stop=stop,
                writer=choose_writer(settings, folder, progress.epoch * batches.steps + progress.step),
            )
            announce(run, indices, network, [*notes, *odd])
            return run_to_the_end(run, training)


def run_to_the_end(run: Run, training: Training) -> int:
    """Train and test; returns what `main` returns. Loading processes and the writer end with it."""
    progress, steps = training.progress, run.batches.steps
    try:
        is_new = (progress.epoch, progress.step, progress.start) == (run.settings.start_epoch, 0, None)
        if run.settings.init_weights and is_new:
            validate_start(run, training)
        run_epochs(run, training)
    except Interrupted as interruption:
        run.log(
            f"interrupted in epoch {progress.epoch + 1} after step {progress.step} of {steps}; "
            f"saved in {run.folder / LAST}; continue with --resume {run.folder}"
        )
        return exit_status(interruption.args[0])
    finally:
        stop_loading(run.train_loader, *run.val_loaders, *run.test_loaders)
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


def continue_from(saved: Checkpoint, training: Training, settings: Settings, folder: Path, log: Log) -> None:
    """Continue a run where its checkpoint left it, and log where that is and which settings changed since."""
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
    before = dict(saved.settings)
    if world_size() == 1:  # which sync_bn does not concern
        del before["sync_bn"]
    if "data" in saved.training:  # the same data, wherever it lies
        before.pop("dataset", None)
    if changes := changed_settings(before, settings):
        log(f"warning: settings changed since then, the run will differ from an unbroken one: {', '.join(changes)}")
    if is_main():
        run_folder.forget_later_metrics(folder, progress.epoch)


if __name__ == "__main__":
    run_main(main)
