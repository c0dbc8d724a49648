"""Saved predictions and masks: paired by name, read, and checked against each other."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.files import read_table
from istd.utils.images import (
    IMAGE_SUFFIXES,
    MASK_ENDING,
    file_key,
    image_files,
    mask_key,
    numeric_key,
    read_mask,
    size_text,
)
from istd.utils.metrics.map_files import PREDICTION_SUFFIXES, read_scores
from istd.utils.names import list_names


class Pair(NamedTuple):
    """A prediction and its mask, named after the prediction; sequence is None for files outside a sequence's folder.

    `time`: number of the frame within its sequence, counting frames that are not selected.
    """

    sequence: str | None
    frame: str
    prediction: Path
    mask: Path
    time: int


def find_pairs(predictions: Path, masks: Path, wanted: set[str] | None = None, ending: str = "") -> list[Pair]:
    """Pair predictions and masks by folder and name, in the order of the numbers in their names.

    Files may lie in the folders themselves or in one folder per sequence, as `inference --save_maps` writes them.
    As in datasets, spaces in names do not count.
    wanted: names (NAME, SEQUENCE or SEQUENCE/NAME) to select on both sides. ending: of the predictions' names, as in
    NAME_PSTNN.png; other files are left out. Raises `InputError` for names without a counterpart, two files with the
    same name, and folders without files.
    """
    maps = list_predictions(predictions, ending)
    truth = list_files(masks, IMAGE_SUFFIXES, "masks")
    ordered = sorted(truth, key=lambda key: (numeric_key(key[0] or ""), numeric_key(key[1])))
    times = {key: time for _, group in groupby(ordered, itemgetter(0)) for time, key in enumerate(group)}
    if wanted is not None:
        wanted = {file_key(name) for name in wanted}
        maps, truth = ({k: v for k, v in files.items() if wanted & set(key_names(k))} for files in (maps, truth))
        listed = {name for key in truth for name in key_names(key)}
        if missing := sorted(wanted - listed, key=numeric_key):
            raise InputError(f"{masks} has no mask for {list_names(missing)} of the list; check the list's names")
    if lone := _lone(maps, truth):
        same = "names and folders must be the same" + ending_advice(maps, truth)
        raise InputError(f"{masks} has no mask for the prediction {lone}; {same}")
    if lone := _lone(truth, maps):
        remedy = "add them, or name the images with --list"
        raise InputError(f"{predictions} has no prediction for the mask {lone}; {remedy}")
    keys = [key for key in ordered if key in maps]
    sequences = {key[0]: key[0] and maps[key].parent.name for key in reversed(keys)}  # the first spelling of each name
    names = {key: maps[key].stem.removesuffix(ending).removesuffix(MASK_ENDING) for key in keys}
    return [Pair(sequences[key[0]], names[key], maps[key], truth[key], times[key]) for key in keys]


def list_predictions(folder: Path, ending: str = "") -> dict[tuple[str | None, str], Path]:
    """`list_files` of predictions; with `ending`, only names that end in it count, and the keys lack it."""
    files = list_files(folder, PREDICTION_SUFFIXES, "predictions")
    if not ending:
        return files
    chosen = {
        (sequence, name.removesuffix(file_key(ending))): path
        for (sequence, name), path in files.items()
        if name.endswith(file_key(ending))
    }
    if not chosen:
        raise InputError(f"no name in --predictions {folder} ends in {ending}; the first is {next(iter(files))[1]}")
    return chosen


def ending_advice(predictions: dict, truth: dict) -> str:
    """Advice for an error to give --suffix, if the predictions' names are the masks' names with an ending, else ""."""
    first = next(iter(predictions))[1]
    for mask in (name for _, name in truth if first.startswith(name)):
        ending = first[len(mask) :]
        if ending and all((sequence, name.removesuffix(ending)) in truth for sequence, name in predictions):
            return f"; all predictions end in {ending}: give --suffix {ending}"
    return ""


def list_files(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[tuple[str | None, str], Path]:
    """Files with these suffixes by (sequence, name), in the folder (sequence None) and in its subfolders."""
    if not folder.is_dir():
        raise InputError(f"--{what} {folder} is no folder; give the folder of {what}")
    files: dict[tuple[str | None, str], Path] = {}
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")):
        for name, path in image_files(place, suffixes, mask_key).items():
            key = None if place == folder else file_key(place.name), name
            if key in files:
                raise InputError(f"--{what}: {files[key]} and {path} have the same name; keep one of them")
            files[key] = path
    if not files:
        raise InputError(f"--{what} {folder} holds no {', '.join(suffixes)} files, nor do the folders in it")
    return files


def read_groups(path: Path, pairs: list[Pair]) -> dict[str, str]:
    """Read lines NAME,GROUP as name -> group; at least one must name an image or a sequence of `pairs`."""
    rows = [row for _, row in read_table(path) if row]
    if not rows or any(len(row) != 2 for row in rows):
        raise InputError(f"--groups {path}: expected lines of two values, NAME,GROUP")
    groups = {file_key(name): group.strip() for name, group in rows}
    if not groups.keys() & {name for pair in pairs for name in key_names((pair.sequence, pair.frame))}:
        names = list_names(sorted(groups))
        raise InputError(f"--groups names none of the images, for instance {names}; check its names")
    return groups


def key_names(key: tuple[str | None, str]) -> tuple[str, ...]:
    """The names that select an image: NAME, or SEQUENCE/NAME and SEQUENCE, without spaces."""
    sequence, frame = key
    names = (frame,) if sequence is None else (f"{sequence}/{frame}", sequence)
    return tuple(map(file_key, names))


def _lone(files: dict, others: dict) -> str:
    """The `list_names` of the files without a counterpart among the others."""
    return list_names(sorted((key_names(key)[0] for key in files.keys() - others.keys()), key=numeric_key))


def read_pair(
    pair: Pair, scale: str = "probability", two_values: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a prediction, float [H, W] (see `read_scores`), and its mask, bool [H, W].

    Raises `InputError`, which names the files, where their sizes differ.
    """
    score, mask = read_scores(pair.prediction, scale, two_values), read_mask(pair.mask)
    if score.shape != mask.shape:
        sizes = f"{pair.prediction} is {size_text(score)} and {pair.mask} is {size_text(mask)} (width x height)"
        raise InputError(f"{sizes}; resize the prediction to the mask's size")
    return score, mask
