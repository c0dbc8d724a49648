"""Training and test sequences: from folders, lists beside the data, published lists shipped here, or a seeded split."""

import random
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from istd.datasets.layouts import Layout, Sequence
from istd.utils.config import nearest
from istd.utils.errors import InputError
from istd.utils.images import IMAGE_SUFFIXES, file_key, numeric_key, read_list

PUBLISHED_SPLITS = Path(__file__).parent / "splits"
SPLIT_SEED = 0
TRAIN_SHARE = 0.8
LIST_FOLDER = "img_idx"  # that is looked into before all others
LIST_DEPTH = 2  # folders below the dataset's in which lists are looked for
SYNONYMS = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}  # of these words
ROLES = {"train": "train", "trainval": "train", "test": "test", "val": "test"}  # words of list names -> part
LIST_NAME = re.compile(r"(trainval|train(?:ing)?|test(?:ing)?|val|valid|validation)(?:[_-](.+))?", re.IGNORECASE)
PLAIN_ENDINGS = ("", "list", "set", "split")  # of list names: train_list.txt is as good as train.txt
SKIPPED_FOLDERS = re.compile(r"images?|masks?(_\w+)?|IRSTD1k_(Img|Label)|Mix|\..*|__.*")
UNNAMED_SHARE = 0.5  # of an unrecognised text file's lines that name images: it is a list

Parts = dict[str, list[Sequence]]


class Split(NamedTuple):
    """Where a split comes from, its parts ("train", "test" and any further list), and the entries without a file."""

    source: str
    parts: Parts
    missing: dict[str, list[str]]


def find_split(
    layout: Layout, names: Iterable[str], published: str | None, always_published: bool, folder: str | None = None
) -> Split:
    """Split `layout` by its folders, by lists beside the data, by the published lists of a dataset, or at random.

    `names`: the names of the dataset, which select among several lists. `published`: the name under which
    datasets/splits/ has the published lists; these come first if `always_published`, otherwise where there are no
    lists. `folder`: the folder of the lists, below the dataset's. Raises `InputError` for lists that leave open which
    of them is meant.
    """
    if layout.folder_splits:
        return Split("folders", layout.folder_splits, {})
    root, names = layout.root, list(names)
    lists = choose_lists(root, names, folder)
    shipped = _shipped_lists(published)
    if shipped and always_published:
        source = f"published (SGMP-UNet, datasets/splits/{published}/)"
        if lists:
            others = " and ".join(str(lists[part].relative_to(root)) for part in ("train", "test") if part in lists)
            source += f"; {others} ignored: metrics on another split are not comparable"
        return _split_by(shipped, layout, source, by_number=True)
    if lists:
        main = [lists[part].relative_to(root).as_posix() for part in ("train", "test") if part in lists]
        split = _with_the_rest(_split_by(lists, layout, ", ".join(main), by_number=False), layout)
        return _compared(split, shipped, layout) if shipped else split
    if shipped:
        split = _split_by(shipped, layout, f"published (datasets/splits/{published}/)", by_number=False)
        named = sum(len(split.parts[part]) for part in ("train", "test"))
        if split.parts["train"] and split.parts["test"] and 2 * named >= len(layout.sequences):
            return split
    if unknown := _unrecognised_list(layout):
        raise InputError(
            f"{unknown} lists images, but its name says not of which part; rename it to train.txt or test.txt, or "
            "remove it, and the split will be random"
        )
    return _seeded(layout)


def _shipped_lists(published: str | None) -> dict[str, Path]:
    """The lists in datasets/splits/ by their stems."""
    files = [] if published is None else (PUBLISHED_SPLITS / published).glob("*.txt")
    return {path.stem: path for path in sorted(files, key=lambda path: (path.stem != "train", path.stem))}


def choose_lists(root: Path, names: list[str], folder: str | None = None) -> dict[str, Path]:
    """The lists of a dataset's folder by part: "train" and "test", or one of them, and further ones by their stems.

    Lists of img_idx/ come first, then those of the folder itself, then those of its subfolders (50_50/, idx_427/,
    ImageSets/Main/, splits/), of which `folder` chooses one. Raises `InputError` where several would do.
    """
    if folder is not None:
        if not (root / folder).is_dir():
            raise InputError(f"--split_folder {folder}: {root} has no such folder; give the one that holds the lists")
        chosen = _lists_in(root / folder, names)
        if not chosen.keys() & {"train", "test"}:
            raise InputError(f"--split_folder {folder}: {root / folder} holds no train.txt or test.txt; add them")
        return chosen
    by_name, beside = _lists_in(root / LIST_FOLDER, names, strict=True), _lists_in(root, names)
    if {"train", "test"} <= by_name.keys() or (by_name and not beside):
        return by_name
    if by_name:
        counts = " and ".join(f"{int(part in by_name)} {part}" for part in ("train", "test"))
        raise InputError(
            f"{root / LIST_FOLDER} contains {counts} lists, and {root} others; expected train_{names[0]}.txt and "
            f"test_{names[0]}.txt in one place; rename or remove lists"
        )
    if beside:
        return beside
    lists_by_folder = {path: _lists_in(path, names) for path in _list_folders(root)}
    inside = {path: lists for path, lists in lists_by_folder.items() if lists}
    complete = {path: lists for path, lists in inside.items() if {"train", "test"} <= lists.keys()} or inside
    if len({_content(lists) for lists in complete.values()}) > 1:
        folders = ", ".join(path.relative_to(root).as_posix() for path in complete)
        raise InputError(
            f"{root} has different lists in {folders}; choose with --split_folder {folders.split(', ')[0]}"
        )
    return next(iter(complete.values()), {})


def _content(lists: dict[str, Path]) -> tuple:
    return tuple(frozenset(read_list(lists[part])) if part in lists else None for part in ("train", "test"))


def _list_folders(root: Path) -> list[Path]:
    """Subfolders that may hold lists, down to LIST_DEPTH, without those of images and masks and sequences of them."""
    folders, level = [], [root]
    for _ in range(LIST_DEPTH):
        level = [
            path
            for parent in level
            for path in sorted(parent.iterdir())
            if path.is_dir() and not SKIPPED_FOLDERS.fullmatch(path.name) and not (path / "images").is_dir()
        ]
        folders += level
    return [path for path in folders if path != root / LIST_FOLDER]


def _lists_in(folder: Path, names: list[str], strict: bool = False) -> dict[str, Path]:
    """The lists directly in a folder, by part.

    Of several lists of a part the one named after the dataset counts, then train.txt or trainval.txt, test.txt or
    val.txt, then the only one; all others go by their stems. `strict`: it is an error if none of these decides.
    """
    candidates: dict[str, list[tuple[Path, str, str | None]]] = {"train": [], "test": []}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    lists = [path for path in files if path.suffix.lower() == ".txt" and path.is_file()]
    for path in lists:
        if match := LIST_NAME.fullmatch(path.stem):
            word = SYNONYMS.get(match[1].lower(), match[1].lower())
            candidates[ROLES[word]].append((path, word, match[2]))
    chosen: dict[str, Path] = {}
    lower = [name.lower() for name in names]
    for part, listed in candidates.items():
        named = [path for path, _, ending in listed if ending and ending.lower() in lower]
        plain = {word: path for path, word, ending in reversed(listed) if (ending or "").lower() in PLAIN_ENDINGS}
        order = ("trainval", "train") if part == "train" else ("test", "val")
        plain_path = next((plain[word] for word in order if word in plain), None)
        if named or plain_path or len(listed) == 1:
            chosen[part] = named[0] if named else plain_path or listed[0][0]
        elif listed and (strict or len(lists) == sum(map(len, candidates.values()))):
            counts = " and ".join(f"{len(paths)} {name}" for name, paths in candidates.items())
            text = f"{folder} contains {counts} lists, none named after {' or '.join(names)}"
            raise InputError(f"{text}; expected train_{names[0]}.txt and test_{names[0]}.txt; rename or remove lists")
    if not chosen:
        return {}
    rest = {path.stem: path for rows in candidates.values() for path, *_ in rows if path not in chosen.values()}
    return chosen | {stem: path for stem, path in rest.items() if stem not in chosen}


def _compared(split: Split, shipped: dict[str, Path], layout: Layout) -> Split:
    """`split`, by lists of the folder, with what sets it apart from the published one."""
    published = _split_by(shipped, layout, "", by_number=False).parts
    ours, theirs = (
        {part: {sequence.name for sequence in parts.get(part, ())} for part in ("train", "test")}
        for parts in (split.parts, published)
    )
    if ours == theirs or not (theirs["train"] and theirs["test"]):
        return split
    sizes = f"{len(theirs['train'])} / {len(theirs['test'])}"
    trained = f"{len(ours['test'] & theirs['train'])} of its {len(ours['test'])} test images are for training there"
    note = f"NOT the published split ({sizes}), with which published metrics compare; {trained}"
    return split._replace(source=f"{split.source}; {note}")


def _with_the_rest(split: Split, layout: Layout) -> Split:
    """A split of one list, whose other part is what it does not name; of two lists, what neither names is said."""
    source, parts = split.source, split.parts
    for part, other in (("train", "test"), ("test", "train")):
        if part not in parts:
            parts = parts | {part: _unnamed(layout, parts[other])}
            names = ["train", "test", *(name for name in parts if name not in ("train", "test"))]
            return split._replace(source=f"{source}, {part} with the rest", parts={name: parts[name] for name in names})
    named = [sequence for sequences in parts.values() for sequence in sequences]
    names = {sequence.name for sequence in named}
    rest = [
        f"{sequence.name}/{frame.name}"
        for sequence in _unnamed(layout, named)
        for frame in sequence.frames
        if sequence.name in names and frame.has_mask
    ]
    if rest:
        source += f" ({len(rest)} frames of listed sequences are in no list and left out, the first {rest[0]})"
    return split._replace(source=source)


def _unnamed(layout: Layout, named: list[Sequence]) -> list[Sequence]:
    """The sequences of `layout` without the masks of frames that are in `named`, if any other masks are left."""
    taken: dict[str, set[str]] = {}
    for sequence in named:
        taken.setdefault(sequence.name, set()).update(frame.name for frame in sequence.frames if frame.has_mask)
    rest = []
    for sequence in layout.sequences:
        names = taken.get(sequence.name)
        if names is None:
            rest.append(sequence)
        elif left := {f.name for f in sequence.frames if f.has_mask} - names:
            rest.append(_only(sequence, {file_key(name) for name in left}))
    return rest


def _split_by(lists: dict[str, Path], layout: Layout, source: str, by_number: bool) -> Split:
    resolved = {part: _resolve(read_list(path), layout, by_number) for part, path in lists.items()}
    used = {
        part: both for part, both in resolved.items() if both[0] or part in ("train", "test")
    }  # others may be foreign
    parts = {part: sequences for part, (sequences, _) in used.items()}
    return Split(source, parts, {part: missing for part, (_, missing) in used.items() if missing})


def _resolve(entries: list[str], layout: Layout, by_number: bool) -> tuple[list[Sequence], list[str]]:
    """Entries -> sequences in numeric order (images: in list order), and the entries without a file."""
    by_name = {file_key(sequence.name): sequence for sequence in layout.sequences}
    numbers = {_last_number(name): sequence for name, sequence in by_name.items()} if by_number else {}
    resolved: dict[str, Sequence] = {}
    missing: list[str] = []
    chosen_frames: dict[str, set[str]] = {}  # for lists of frames, such as 44/1(814)
    complete: set[str] = set()  # sequences that an entry names without a frame
    frames = {sequence.name: {file_key(frame.name) for frame in sequence.frames} for sequence in layout.sequences}
    for entry in entries:
        for form in _forms(entry):
            parts = [file_key(part) for part in form.split("/") if part not in (".", "")]
            if layout.kind == "images":
                if parts and parts[-1] in by_name:
                    resolved[parts[-1]] = by_name[parts[-1]]
                    break
                continue
            parts = [part for part in parts if part not in ("images", "image")]
            if parts and by_number and not any(part in by_name for part in parts):
                numbered = numbers.get(_last_number(parts[0]))
                parts = [file_key(numbered.name), *parts[1:]] if numbered else parts
            # a frame may have the name of another sequence: 1/2 is frame 2 of sequence 1
            before = [by_name[part] for part in parts[:-1] if part in by_name]
            sequence = next((owner for owner in reversed(before) if parts[-1] in frames[owner.name]), None)
            if sequence:
                chosen_frames.setdefault(sequence.name, set()).add(parts[-1])
            elif parts and not before and parts[-1] in by_name:
                sequence = by_name[parts[-1]]
                complete.add(sequence.name)
            else:
                continue
            resolved[sequence.name] = sequence
            break
        else:
            missing.append(entry)
    if layout.kind == "images":
        return list(resolved.values()), missing
    ordered = sorted(resolved.values(), key=lambda sequence: numeric_key(sequence.name))
    chosen = (None if sequence.name in complete else chosen_frames[sequence.name] for sequence in ordered)
    return [_only(sequence, names) for sequence, names in zip(ordered, chosen, strict=True)], missing


def _forms(entry: str) -> Iterable[str]:
    """What an entry may mean: a name, or image and mask side by side (blanks, tabs, commas or semicolons between)."""
    yield entry
    for separators in (r"[,;\t]", r"\s+"):
        first = re.split(separators, entry, maxsplit=1)[0].strip().rstrip("/")
        if first != entry:
            yield first.rsplit(".", 1)[0] if first.lower().endswith(IMAGE_SUFFIXES) else first


def nearest_entry(entry: str, layout_sequences: list[Sequence]) -> str:
    """'; did you mean ...?' with the existing name nearest to an entry, or ''."""
    parts = [part for part in next(iter(_forms(entry))).split("/") if part]
    by_name = {sequence.name: sequence for sequence in layout_sequences}
    sequence = by_name.get(parts[0]) if len(parts) > 1 else None
    if sequence:
        return nearest(parts[-1], [frame.name for frame in sequence.frames])
    return next(filter(None, (nearest(part, by_name) for part in reversed(parts))), "")


def _only(sequence: Sequence, names: set[str] | None) -> Sequence:
    """The sequence with masks on the named frames only; all others become context."""
    if names is None:
        return sequence
    frames = (frame if file_key(frame.name) in names else replace(frame, mask=None) for frame in sequence.frames)
    return Sequence(sequence.name, tuple(frames))


def _last_number(name: str) -> int | str:
    digits = [part[1] for part in numeric_key(name)[0] if part[0] == 0]
    return digits[-1] if digits else name


def _unrecognised_list(layout: Layout) -> Path | None:
    """A text file beside the data most of whose lines name images."""
    for folder in (layout.root, layout.root / LIST_FOLDER, *_list_folders(layout.root)):
        for path in sorted(folder.glob("*.[tT][xX][tT]")):
            entries = read_list(path)
            named = entries and len(_resolve(entries, layout, by_number=False)[1]) <= UNNAMED_SHARE * len(entries)
            if named:
                return path
    return None


def _seeded(layout: Layout) -> Split:
    """At random; of an only sequence, the end is for testing."""
    frames = [frame for sequence in layout.sequences for frame in sequence.frames if frame.has_mask]
    if len(layout.sequences) == 1 and len(frames) > 1:
        count = min(round(TRAIN_SHARE * len(frames)), len(frames) - 1)
        names = {"train": frames[:count], "test": frames[count:]}
        parts = {
            part: [_only(layout.sequences[0], {file_key(frame.name) for frame in chosen})]
            for part, chosen in names.items()
        }
        return Split(f"no list found: of the only sequence, the first {TRAIN_SHARE:.0%} for training", parts, {})
    order = list(range(len(layout.sequences)))
    random.Random(SPLIT_SEED).shuffle(order)
    count = min(round(TRAIN_SHARE * len(order)), max(1, len(order) - 1))  # of two, one is to test
    indices = {"train": order[:count], "test": order[count:]}
    parts = {part: [layout.sequences[index] for index in sorted(chosen)] for part, chosen in indices.items()}
    return Split(f"no list found: a random {TRAIN_SHARE:.0%} for training (seed {SPLIT_SEED})", parts, {})
