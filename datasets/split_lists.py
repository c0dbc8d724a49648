"""Training and test sequences: from folders, lists beside the data, published lists shipped here, or a seeded split."""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from istd.datasets.layouts import TEST_WORDS, TRAIN_WORDS, Layout, Sequence, is_contained
from istd.utils.config import nearest
from istd.utils.errors import InputError
from istd.utils.images import IMAGE_SUFFIXES, file_key, last_number, numeric_key, read_list
from istd.utils.names import counted

PUBLISHED_SPLITS = Path(__file__).parent / "splits"
SPLIT_SEED = 0
TRAIN_SHARE = 0.8
LIST_FOLDER = "img_idx"  # is searched before all other folders
LIST_DEPTH = 2  # levels of subfolders in which lists are searched
ROLES = dict.fromkeys(TRAIN_WORDS, "train") | dict.fromkeys(TEST_WORDS, "test")
LIST_NAME = re.compile(f"({'|'.join(ROLES)})(?:[_-](.+))?", re.IGNORECASE)
PLAIN_ENDINGS = ("", "list", "set", "split")  # of list names: train_list.txt is as good as train.txt
OTHER_NAME = len(ROLES) + 1  # rank of all other names
SKIPPED_FOLDERS = re.compile(r"images?|masks?(_\w+)?|IRSTD1k_(Img|Label)|Mix|\..*|__.*")
OTHER_LISTS = (".csv", ".json", ".lst", ".xml", ".yaml", ".yml")  # suffixes of lists in formats that are not read
UNNAMED_SHARE = 0.5  # a text file counts as a list if at most this share of its lines names no image


class Split(NamedTuple):
    """Where a split comes from, its parts ("train", "test" and any further list), and the entries without a file."""

    source: str
    parts: dict[str, list[Sequence]]
    missing: dict[str, list[str]]


def find_split(
    layout: Layout, names: Iterable[str], published: str | None, always_published: bool, folder: str | None = None
) -> Split:
    """Split `layout` by its folders, by lists beside the data, by the published lists of a dataset, or at random.

    `names`: the names of the dataset, which select among several lists. `published`: the name of the published lists in
    datasets/splits/, which come first if `always_published`, otherwise where the folder has no lists. `folder`: of the
    lists, inside the dataset's folder. Raises `InputError` for ambiguous lists.
    """
    if layout.folder_splits:
        return Split("folders", layout.folder_splits, {})
    lists = choose_lists(layout.root, list(names), folder)
    main = [lists[part].relative_to(layout.root).as_posix() for part in ("train", "test") if part in lists]
    files = [] if published is None else (PUBLISHED_SPLITS / published).glob("*.txt")
    shipped = {path.stem: path for path in sorted(files, key=lambda path: (path.stem != "train", path.stem))}
    if shipped and always_published:
        source = f"published (SGMP-UNet, datasets/splits/{published}/)"
        if lists:
            source += f"; {' and '.join(main)} ignored: metrics on another split are not comparable"
        return _split_by(shipped, layout, source, by_number=True)
    if lists:
        split = _complete(_split_by(lists, layout, ", ".join(main)), layout)
        return _compare(split, shipped, layout) if shipped else split
    if shipped:
        split = _split_by(shipped, layout, f"published (datasets/splits/{published}/)")
        train, test = (len(split.parts[part]) for part in ("train", "test"))
        if train and test and 2 * (train + test) >= len(layout.sequences):
            return split
    if unknown := _unrecognised_list(layout):
        raise InputError(
            f"{unknown} lists images, but its name does not tell the part; rename it to train.txt or test.txt, or "
            "remove it, and the split will be random"
        )
    return _split_at_random(layout)


def choose_lists(root: Path, names: list[str], folder: str | None = None) -> dict[str, Path]:
    """The lists of a dataset's folder by part: "train", "test", or both, and further lists by their stems.

    Lists in img_idx/ come first, then lists in the folder itself, then lists in its subfolders (50_50/, idx_427/,
    ImageSets/Main/, splits/), among which `folder` chooses. Raises `InputError` if subfolders disagree.
    """
    if folder is not None:
        if not (root / folder).is_dir():
            raise InputError(
                f"--split_folder {folder}: {root} has no such folder; give the folder that holds the lists"
            )
        lists = _lists_in(root / folder, names)
        if not lists:
            raise InputError(f"--split_folder {folder}: {root / folder} holds no train.txt or test.txt; add them")
        return lists
    first, beside = _lists_in(root / LIST_FOLDER, names, strict=True), _lists_in(root, names)
    if first and beside and not {"train", "test"} <= first.keys():
        counts = " and ".join(f"{int(part in first)} {part}" for part in ("train", "test"))
        raise InputError(
            f"{root / LIST_FOLDER} contains {counts} lists, and {root} others; expected train_{names[0]}.txt and "
            f"test_{names[0]}.txt in one place; rename or remove lists"
        )
    if first or beside:
        return first or beside
    inside = {path: lists for path in _list_folders(root) if (lists := _lists_in(path, names))}
    complete = {path: lists for path, lists in inside.items() if {"train", "test"} <= lists.keys()} or inside
    contents = {
        tuple(part in lists and frozenset(read_list(lists[part])) for part in ("train", "test"))
        for lists in complete.values()
    }
    if len(contents) > 1:
        folders = [path.relative_to(root).as_posix() for path in complete]
        raise InputError(f"{root} has different lists in {', '.join(folders)}; choose with --split_folder {folders[0]}")
    return next(iter(complete.values()), {})


def _list_folders(root: Path) -> list[Path]:
    """Subfolders that may hold lists, down to LIST_DEPTH, without the folders of images, masks, and sequences."""
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

    Among several lists of a part, the list named after the dataset is chosen, else the first in the order of `ROLES`,
    else an only list; all other lists go by their stems, without those that trainval.txt contains. `strict`: raise an
    error if this does not decide.
    """
    ranks: dict[str, dict[Path, int]] = {"train": {}, "test": {}}
    words: dict[Path, str] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    texts = [path for path in files if path.suffix.lower() == ".txt" and path.is_file()]
    for path in texts:
        if match := LIST_NAME.fullmatch(path.stem):
            words[path], ending = match[1].lower(), (match[2] or "").lower()
            plain = 1 + list(ROLES).index(words[path]) if ending in PLAIN_ENDINGS else OTHER_NAME
            ranks[ROLES[words[path]]][path] = 0 if ending in map(str.lower, names) else plain
    chosen: dict[str, Path] = {}
    for part, ranked in ranks.items():
        best = min(ranked, key=ranked.get, default=None)
        if best and (len(ranked) == 1 or ranked[best] < OTHER_NAME):
            chosen[part] = best
        elif best and (strict or len(texts) == sum(map(len, ranks.values()))):
            counts = " and ".join(f"{len(paths)} {name}" for name, paths in ranks.items())
            text = f"{folder} contains {counts} lists, none named after {' or '.join(names)}"
            raise InputError(f"{text}; expected train_{names[0]}.txt and test_{names[0]}.txt; rename or remove lists")
    train = words.get(chosen.get("train"), "")
    others = [
        path
        for ranked in ranks.values()
        for path, rank in ranked.items()
        if path not in chosen.values() and not (rank < OTHER_NAME and is_contained(words[path], train))
    ]
    return chosen | {path.stem: path for path in others if path.stem not in chosen} if chosen else {}


def _split_by(lists: dict[str, Path], layout: Layout, source: str, by_number: bool = False) -> Split:
    """Split by lists; further lists that name nothing in the layout belong to another dataset."""
    resolved = {part: _resolve(read_list(path), layout, by_number) for part, path in lists.items()}
    resolved = {part: entries for part, entries in resolved.items() if entries[0] or part in ("train", "test")}
    parts = {part: sequences for part, (sequences, _) in resolved.items()}
    return Split(source, parts, {part: missing for part, (_, missing) in resolved.items() if missing})


def _resolve(entries: list[str], layout: Layout, by_number: bool = False) -> tuple[list[Sequence], list[str]]:
    """Entries -> sequences in numeric order (images: in list order), and the entries without a file.

    `by_number`: if no name matches an entry, the last number in it chooses the sequence.
    """
    sequences = {file_key(sequence.name): sequence for sequence in layout.sequences}
    frames = {key: {file_key(frame.name) for frame in sequence.frames} for key, sequence in sequences.items()}
    numbers = {last_number(key): key for key in sequences} if by_number else {}
    numbers.pop(None, None)

    def find(form: str) -> tuple[str, str | None] | None:
        """Keys of the sequence and the frame that an entry names; without a frame, it names all frames."""
        parts = [file_key(part) for part in form.split("/") if part not in (".", "")]
        if layout.kind == "images":
            return (parts[-1], None) if parts and parts[-1] in sequences else None
        parts = [part for part in parts if part not in ("images", "image")]
        if parts and sequences.keys().isdisjoint(parts):
            parts[0] = numbers.get(last_number(parts[0]), parts[0])
        # a frame may have the name of another sequence: 1/2 is frame 2 of sequence 1
        owners = [part for part in parts[:-1] if part in sequences]
        for owner in reversed(owners):
            if parts[-1] in frames[owner]:
                return owner, parts[-1]
        return (parts[-1], None) if parts and not owners and parts[-1] in sequences else None

    chosen: dict[str, set[str | None]] = {}  # keys of the frames of each sequence
    missing = []
    for entry in entries:
        if place := next(filter(None, map(find, _forms(entry))), None):
            chosen.setdefault(place[0], set()).add(place[1])
        else:
            missing.append(entry)
    order = chosen if layout.kind == "images" else sorted(chosen, key=lambda key: numeric_key(sequences[key].name))
    return [sequences[key] if None in chosen[key] else _only(sequences[key], chosen[key]) for key in order], missing


def _forms(entry: str) -> Iterator[str]:
    """What an entry may mean: a name, or image and mask side by side (blanks, tabs, commas or semicolons between)."""
    yield entry
    for separators in (r"[,;\t]", r"\s+"):
        first = re.split(separators, entry, maxsplit=1)[0].strip().rstrip("/")
        if first != entry:
            yield first.rsplit(".", 1)[0] if first.lower().endswith(IMAGE_SUFFIXES) else first


def _only(sequence: Sequence, keys: set[str]) -> Sequence:
    """The sequence with masks on the frames with these keys only; all other frames become context."""
    frames = (frame if file_key(frame.name) in keys else replace(frame, mask=None) for frame in sequence.frames)
    return Sequence(sequence.name, tuple(frames))


def nearest_entry(entry: str, sequences: list[Sequence]) -> str:
    """'; did you mean ...?' with the existing name nearest to an entry, or ''."""
    parts = [part for part in next(_forms(entry)).split("/") if part]
    by_name = {sequence.name: sequence for sequence in sequences}
    if len(parts) > 1 and parts[0] in by_name:
        return nearest(parts[-1], [frame.name for frame in by_name[parts[0]].frames])
    return next(filter(None, (nearest(part, by_name) for part in reversed(parts))), "")


def _complete(split: Split, layout: Layout) -> Split:
    """Add what a single list does not name as the other part; report frames that two lists leave out."""
    for part, other in (("train", "test"), ("test", "train")):
        if part not in split.parts:
            parts = split.parts | {part: _unnamed(layout, split.parts[other])}
            parts = {name: parts[name] for name in dict.fromkeys(("train", "test", *parts))}
            return split._replace(source=f"{split.source}, {part} with the rest", parts=parts)
    named = [sequence for sequences in split.parts.values() for sequence in sequences]
    names = {sequence.name for sequence in named}
    unlisted = [
        f"{sequence.name}/{frame.name}"
        for sequence in _unnamed(layout, named)
        for frame in sequence.frames
        if sequence.name in names and frame.has_mask
    ]
    if not unlisted:
        return split
    count = counted(len(unlisted), "frame")
    note = f"without {count} of listed sequences that are in no list, the first {unlisted[0]}"
    return split._replace(source=f"{split.source} ({note})")


def _unnamed(layout: Layout, named: list[Sequence]) -> list[Sequence]:
    """The sequences of `layout` without the masks of `named`, and without sequences that have no other masks."""
    taken: dict[str, set[str]] = {}
    for sequence in named:
        taken.setdefault(sequence.name, set()).update(frame.name for frame in sequence.frames if frame.has_mask)
    unnamed = []
    for sequence in layout.sequences:
        left = {frame.name for frame in sequence.frames if frame.has_mask} - taken.get(sequence.name, set())
        if left or sequence.name not in taken:
            unnamed.append(_only(sequence, set(map(file_key, left))))
    return unnamed


def _compare(split: Split, shipped: dict[str, Path], layout: Layout) -> Split:
    """Report how a split by the folder's lists differs from the published split."""
    published = _split_by(shipped, layout, "")
    (train, test), (published_train, published_test) = (
        [{sequence.name for sequence in parts[part]} for part in ("train", "test")]
        for parts in (split.parts, published.parts)
    )
    if (train, test) == (published_train, published_test) or not (published_train and published_test):
        return split
    sizes = f"{len(published_train)} / {len(published_test)}"
    trained = f"{len(test & published_train)} of its {len(test)} test images are for training there"
    note = f"NOT the published split ({sizes}), with which published metrics compare; {trained}"
    return split._replace(source=f"{split.source}; {note}")


def _unrecognised_list(layout: Layout) -> Path | None:
    """A text file beside the data most of whose lines name images."""
    for path in _files_beside(layout.root, (".txt",)):
        entries = read_list(path)
        if entries and len(_resolve(entries, layout)[1]) <= UNNAMED_SHARE * len(entries):
            return path
    return None


def _files_beside(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files with these suffixes where lists may lie."""
    folders = [path for path in (root, root / LIST_FOLDER, *_list_folders(root)) if path.is_dir()]
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]


def _split_at_random(layout: Layout) -> Split:
    """A random split, always the same; a single sequence is split in time."""
    files = _files_beside(layout.root, OTHER_LISTS)
    others = [path.name for path in files if LIST_NAME.fullmatch(path.stem)]
    reason = f"no list found (lists are .txt files, not {', '.join(others)})" if others else "no list found"
    sequences = layout.sequences
    frames = [frame for sequence in sequences for frame in sequence.frames if frame.has_mask]
    if len(sequences) == 1 and len(frames) > 1:
        keys = _cut([file_key(frame.name) for frame in frames])
        parts = {part: [_only(sequences[0], set(chosen))] for part, chosen in keys.items()}
        return Split(f"{reason}, the first {TRAIN_SHARE:.0%} of the only sequence for training", parts, {})
    order = list(range(len(sequences)))
    random.Random(SPLIT_SEED).shuffle(order)
    parts = {part: [sequences[index] for index in sorted(chosen)] for part, chosen in _cut(order).items()}
    return Split(f"{reason}, a random {TRAIN_SHARE:.0%} for training, seed {SPLIT_SEED}", parts, {})


def _cut(items: list) -> dict[str, list]:
    """The first TRAIN_SHARE of the items for training; the remaining items, if possible at least one, for testing."""
    count = min(round(TRAIN_SHARE * len(items)), max(1, len(items) - 1))
    return {"train": items[:count], "test": items[count:]}
