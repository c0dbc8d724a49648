"""Training and test sequences: from folders, published lists shipped here, lists beside the data, or a seeded split."""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from istd.datasets.layouts import Layout, Sequence
from istd.utils.errors import InputError
from istd.utils.images import file_key, numeric_key, read_list

PUBLISHED_SPLITS = Path(__file__).parent / "splits"
SPLIT_SEED = 0
TRAIN_SHARE = 0.8


# source of the split; "train", "test" and any further list -> sequences; the same -> list entries without a file
Split = tuple[str, dict[str, list[Sequence]], dict[str, list[str]]]


def find_split(layout: Layout, names: Iterable[str], published: str | None) -> Split:
    """Split `layout` by folders, by the published lists of dataset `published`, by lists in its folder, or at random.

    `names` are the names of the dataset, which select among several lists in img_idx/.
    """
    if layout.folder_splits:
        return "folders", layout.folder_splits, {}
    root = layout.root
    lists = _lists_beside(root, list(names))
    if published is not None:
        folder = PUBLISHED_SPLITS / published
        shipped = {path.stem: path for path in sorted(folder.glob("*.txt"))}
        source = f"published (SGMP-UNet, datasets/splits/{published}/)"
        if lists:
            others = " and ".join(str(path.relative_to(root)) for path in lists.values())
            source += f"; {others} ignored: metrics on another split are not comparable"
        return _split_by(shipped, layout, source, by_number=True)
    if lists:
        source = ", ".join(path.relative_to(root).as_posix() for path in lists.values())
        source, parts, missing = _split_by(lists, layout, source, by_number=False)
        return *_with_the_rest(source, parts, layout), missing
    return _seeded(layout)


def _lists_beside(root: Path, names: list[str]) -> dict[str, Path]:
    """List files in a dataset's folder: of img_idx/, else of the folder itself, else of its other subfolders.

    Of the first two, one list is enough, if it is the only one.
    """
    by_name = root / "img_idx"
    for name in names:
        lists = {part: by_name / f"{part}_{name}.txt" for part in ("train", "test")}
        if all(path.is_file() for path in lists.values()):
            return lists
    found = {part: sorted(by_name.glob(f"{part}_*.txt")) for part in ("train", "test")}
    numbers, beside = sorted(len(paths) for paths in found.values()), _lists_in(root)
    if numbers == [1, 1] or (numbers == [0, 1] and not beside):
        return {part: paths[0] for part, paths in found.items() if paths}
    if any(numbers):
        counts = " and ".join(f"{len(paths)} {part}" for part, paths in found.items())
        text = f"{by_name} contains {counts} lists, none named after {' or '.join(names)}"
        raise InputError(f"{text}; expected train_{names[0]}.txt and test_{names[0]}.txt; rename or remove lists")
    if beside:
        return beside
    inside = (_lists_in(path) for path in sorted(root.iterdir()) if path.is_dir())
    return next((lists for lists in inside if len(lists) == 2), {})


def _lists_in(folder: Path) -> dict[str, Path]:
    """The lists directly in a folder: train and test, one of them, or none."""
    names = {"train": ("trainval.txt", "train.txt"), "test": ("test.txt", "val.txt")}
    found = {part: [folder / name for name in both if (folder / name).is_file()] for part, both in names.items()}
    return {part: paths[0] for part, paths in found.items() if paths}


def _with_the_rest(source: str, parts: dict[str, list[Sequence]], layout: Layout) -> tuple[str, dict]:
    """Source and parts of a split of one list, whose other part are the sequences that it does not name."""
    for part, other in (("train", "test"), ("test", "train")):
        if part not in parts:
            named = {sequence.name for sequence in parts[other]}
            rest = [sequence for sequence in layout.sequences if sequence.name not in named]
            both = parts | {part: rest}
            return f"{source}, {part} with the rest", {name: both[name] for name in ("train", "test")}
    return source, parts


def _split_by(lists: dict[str, Path], layout: Layout, source: str, by_number: bool) -> Split:
    resolved = {part: _resolve(read_list(path), layout, by_number) for part, path in lists.items()}
    parts = {part: found for part, (found, _) in resolved.items()}
    return source, parts, {part: missing for part, (_, missing) in resolved.items() if missing}


def _resolve(entries: list[str], layout: Layout, by_number: bool) -> tuple[list[Sequence], list[str]]:
    """Entries -> sequences in numeric order (images: in list order), and the entries without a file."""
    by_name = {file_key(sequence.name): sequence for sequence in layout.sequences}
    numbers = {_last_number(name): sequence for name, sequence in by_name.items()} if by_number else {}
    if layout.kind == "images":
        keys = [file_key(entry.rsplit("/", 1)[-1]) for entry in entries]
        found = {key: by_name[key] for key in keys if key in by_name}
        return list(found.values()), [entry for entry, key in zip(entries, keys, strict=True) if key not in by_name]
    found, missing = {}, []
    chosen_frames: dict[str, set[str]] = {}  # for lists of frames, such as 44/1(814)
    for entry in entries:
        name, _, frame = entry.removeprefix("images/").partition("/")
        sequence = by_name.get(file_key(name)) or numbers.get(_last_number(name))
        if sequence is None:
            missing.append(entry)
            continue
        found[sequence.name] = sequence
        if frame:
            if file_key(frame) in {file_key(known.name) for known in sequence.frames}:
                chosen_frames.setdefault(sequence.name, set()).add(file_key(frame))
            else:
                missing.append(entry)
    ordered = sorted(found.values(), key=lambda sequence: numeric_key(sequence.name))
    return [_only(sequence, chosen_frames.get(sequence.name)) for sequence in ordered], missing


def _only(sequence: Sequence, names: set[str] | None) -> Sequence:
    """The sequence with masks on the named frames only; all others become context."""
    if names is None:
        return sequence
    frames = (frame if file_key(frame.name) in names else replace(frame, mask=None) for frame in sequence.frames)
    return Sequence(sequence.name, tuple(frames))


def _last_number(name: str) -> int | str:
    digits = [part[1] for part in numeric_key(name)[0] if part[0] == 0]
    return digits[-1] if digits else name


def _seeded(layout: Layout) -> Split:
    order = list(range(len(layout.sequences)))
    random.Random(SPLIT_SEED).shuffle(order)
    count = min(round(TRAIN_SHARE * len(order)), max(1, len(order) - 1))  # of two, one is to test
    indices = {"train": order[:count], "test": order[count:]}
    parts = {part: [layout.sequences[index] for index in sorted(chosen)] for part, chosen in indices.items()}
    return f"no list found: a random {TRAIN_SHARE:.0%} for training (seed {SPLIT_SEED})", parts, {}
