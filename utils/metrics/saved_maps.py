"""Saved predictions and masks: paired by name, read, and checked against each other."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.files import read_table
from istd.utils.images import IMAGE_SUFFIXES, MASK_ENDING, file_key, image_files, numeric_key, read_mask, size_text
from istd.utils.metrics.map_files import PREDICTION_SUFFIXES, read_scores

NAMES_SHOWN = 3  # in an error


class Pair(NamedTuple):
    """A prediction and its mask, named as the prediction is; sequence is None for files not in a sequence's folder."""

    sequence: str | None
    frame: str
    prediction: Path
    mask: Path


def find_pairs(predictions: Path, masks: Path, wanted: set[str] | None = None, ending: str = "") -> list[Pair]:
    """Pair predictions and masks by folder and name, in the order of the numbers in their names.

    Files may lie in the folders themselves or in one folder per sequence, as `inference --save_maps` writes them.
    As in datasets, spaces in names do not count.
    wanted: names (NAME, SEQUENCE or SEQUENCE/NAME) to select on both sides. ending: of the predictions' names, as in
    NAME_PSTNN.png; others are left out. Raises `InputError` for names without a counterpart, two files of one name, and
    folders without files.
    """
    maps = list_predictions(predictions, ending)
    truth = list_files(masks, IMAGE_SUFFIXES, "masks")
    if wanted is not None:
        wanted = {file_key(name) for name in wanted}
        maps, truth = ({k: v for k, v in files.items() if wanted & set(key_names(k))} for files in (maps, truth))
        listed = {name for key in truth for name in key_names(key)}
        if missing := sorted(wanted - listed, key=numeric_key):
            raise InputError(f"{masks} has no mask for {shown(missing)} of the list; check the list's names")
    if lone := _lone(maps, truth):
        same = "names and folders must be the same" + ending_advice(maps, truth)
        raise InputError(f"{masks} has no mask for the prediction {lone}; {same}")
    if lone := _lone(truth, maps):
        remedy = "add them, or name the images with --list"
        raise InputError(f"{predictions} has no prediction for the mask {lone}; {remedy}")
    keys = sorted(maps, key=lambda key: (numeric_key(key[0] or ""), numeric_key(key[1])))
    sequences = {key[0]: key[0] and maps[key].parent.name for key in reversed(keys)}  # the first spelling of each name
    names = {key: maps[key].stem.removesuffix(ending).removesuffix(MASK_ENDING) for key in keys}
    return [Pair(sequences[key[0]], names[key], maps[key], truth[key]) for key in keys]


def list_predictions(folder: Path, ending: str = "") -> dict[tuple[str | None, str], Path]:
    """`list_files` of predictions: with `ending`, those whose names end in it, by their names without it."""
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
    """What an error adds where the predictions' names are the masks' names with an ending: to give it by --suffix."""
    first = next(iter(predictions))[1]
    for mask in (name for _, name in truth if first.startswith(name)):
        ending = first[len(mask) :]
        if ending and all((sequence, name.removesuffix(ending)) in truth for sequence, name in predictions):
            return f"; all predictions end in {ending}: give --suffix {ending}"
    return ""


def list_files(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[tuple[str | None, str], Path]:
    """Files of these suffixes by (sequence, name): those in the folder (sequence None) and in its folders."""
    if not folder.is_dir():
        raise InputError(f"--{what} {folder} is no folder; give the folder of {what}")
    files: dict[tuple[str | None, str], Path] = {}
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")):
        for name, path in image_files(place, suffixes, map_key).items():
            key = None if place == folder else file_key(place.name), name
            if key in files:
                raise InputError(f"--{what}: {files[key]} and {path} have the same name; keep one of them")
            files[key] = path
    if not files:
        raise InputError(f"--{what} {folder} holds no {', '.join(suffixes)} files, nor do the folders in it")
    return files


def map_key(path: Path) -> str:
    """Key that matches a map and a mask, as the masks of datasets are matched with their images."""
    return file_key(path.stem).removesuffix(MASK_ENDING)


def read_groups(path: Path, pairs: list[Pair]) -> dict[str, str]:
    """Name -> group from lines NAME,GROUP, of which at least one must name an image or a sequence of `pairs`."""
    rows = [row for _, row in read_table(path) if row]
    if not rows or any(len(row) != 2 for row in rows):
        raise InputError(f"--groups {path}: expected lines of two values, NAME,GROUP")
    groups = {file_key(name): group.strip() for name, group in rows}
    if not groups.keys() & {name for pair in pairs for name in key_names((pair.sequence, pair.frame))}:
        raise InputError(f"--groups names none of the images, for instance {shown(sorted(groups))}; check its names")
    return groups


def key_names(key: tuple[str | None, str]) -> tuple[str, ...]:
    """The names that select an image: NAME, or SEQUENCE/NAME and SEQUENCE, without spaces."""
    sequence, frame = key
    names = (frame,) if sequence is None else (f"{sequence}/{frame}", sequence)
    return tuple(map(file_key, names))


def _lone(files: dict, others: dict) -> str:
    """The files without a counterpart among the others, as an error names them; '' if there are none."""
    return shown(sorted((key_names(key)[0] for key in files.keys() - others.keys()), key=numeric_key))


def shown(names: list[str]) -> str:
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def read_pair(
    pair: Pair, scale: str = "probability", two_values: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A prediction, float [H, W], and its mask, bool [H, W]; `InputError` names the files where they do not fit.

    scale, two_values: see `read_scores`.
    """
    score, mask = read_scores(pair.prediction, scale, two_values), read_mask(pair.mask)
    if score.shape != mask.shape:
        sizes = f"{pair.prediction} is {size_text(score)} and {pair.mask} is {size_text(mask)} (width x height)"
        raise InputError(f"{sizes}; resize the prediction to the mask's size")
    return score, mask
