"""The data of a run: the parts of one or several datasets, as clips."""

from dataclasses import asdict
from functools import partial
from inspect import signature

from torch import nn

import istd.datasets
from istd.datasets import ClipDataset, DatasetIndex, Sequence
from istd.datasets.augmentations import build_augmentations
from istd.datasets.presets import build_transform, find_preset
from istd.datasets.usable import usable_index
from istd.test_script.predictor.preparation import eval_dataset
from istd.train_script.holdout import hold_out
from istd.train_script.norm_statistics import norm_layers
from istd.train_script.settings import Settings
from istd.utils.checkpoint import Checkpoint
from istd.utils.errors import InputError
from istd.utils.grey_levels import parse_range
from istd.utils.ranks import barrier, is_main

Splits = dict[str, dict[str, list[Sequence]]]  # name of a dataset -> its `split_sequences`


def open_datasets(settings: Settings, saved: Checkpoint | None = None, num_frames: int = 1) -> list[DatasetIndex]:
    """Open the datasets, on the main process first: the demo is rendered on first use.

    Files that the run uses, in clips of `num_frames` frames, are checked (see `usable_index`), so that none fails after
    the last epoch. If the dataset of a run that continues from `saved` has moved, the error says how to name its place.
    """
    names = settings.dataset, settings.data_root, settings.split_folder
    try:
        indices = istd.datasets.open_datasets(*names) if is_main() else []
        barrier()
        indices = indices or istd.datasets.open_datasets(*names)
        parts = ("train", "test") if _uses_test(settings) else ("train",)
        return [usable_index(index, parts, settings.skip_unusable, num_frames) for index in indices]
    except InputError as error:
        if saved and saved.settings.get("dataset") == settings.dataset:
            raise InputError(
                f"{saved.path} names its dataset {settings.dataset}, which cannot be opened; if it has moved, give its "
                f"place with --dataset (or --data_root): {error}"
            ) from error
        raise


def _uses_test(settings: Settings) -> bool:
    return settings.final_test or settings.select_on == "test"


def split_sequences(settings: Settings, index: DatasetIndex, num_frames: int = 1) -> dict[str, list[Sequence]]:
    """The sequences of a dataset for training ("train"), choosing the best epoch ("val"), and testing the result
    ("test"); [] where nothing is chosen or tested. `num_frames`: of a clip."""
    train = index.split("train")
    test = index.split("test") if _uses_test(settings) else []
    if settings.select_on == "none":
        return {"train": train, "val": [], "test": test}
    train, validation = (train, test) if settings.select_on == "test" else hold_out(train, num_frames)
    return {"train": train, "val": validation, "test": test}


def build_train_dataset(settings: Settings, sequences: list[Sequence], name: str, model: nn.Module) -> ClipDataset:
    """Clips of `sequences`, prepared for training by the preset."""
    transform = build_transform(settings.preset, True, settings.train_size, model.in_channels)
    if "enlarge_share" in signature(transform).parameters:
        transform = partial(transform, enlarge_share=settings.enlarge_share)
    frames = {"grey_range": parse_range(settings.range), "stride": model.frame_stride, "target": model.target_index}
    draws = {"seed": settings.seed, "augment": build_augmentations(settings.augment, settings.augment_options)}
    border = find_preset(settings.preset).border
    return ClipDataset(sequences, model.num_frames, transform, border, name, **frames, **draws)


def build_eval_datasets(settings: Settings, splits: Splits, part: str, model: nn.Module) -> list[ClipDataset]:
    """Clips of a part of every dataset, prepared for evaluation by the preset."""
    return [eval_dataset(split[part], model, asdict(settings), name) for name, split in splits.items()]


def build_norm_datasets(settings: Settings, splits: Splits, model: nn.Module) -> list[ClipDataset]:
    """The training images for `recalibrate_norm`, prepared for evaluation; [] without this setting."""
    if settings.recalibrate_norm is None:
        return []
    if not norm_layers(model):
        raise InputError(
            f"{model.name} has no batch norms, apart from frozen ones, to estimate statistics for; leave "
            "--recalibrate_norm out"
        )
    return build_eval_datasets(settings, splits, "train", model)
