"""From a dataset's folder to sequences of frames: all layouts in which the datasets are distributed are recognised."""

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from istd.utils.errors import InputError
from istd.utils.image_stacks import STACK_SUFFIXES, StackPage, stack_pages
from istd.utils.images import (
    IMAGE_SUFFIXES,
    file_key,
    image_files,
    mask_key,
    numeric_key,
    read_mask,
    read_pixels,
    size_text,
)
from istd.utils.names import counted

FOLDER_PAIRS = (("images", "masks"), ("IRSTD1k_Img", "IRSTD1k_Label"), ("image", "mask"))
UNSTACKED_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in STACK_SUFFIXES)
MDVSFA_FOLDERS = ("training", "test_org", "test_gt")
# words that name the folders of the parts and begin the names of their lists, the preferred first
TRAIN_WORDS = ("trainval", "train", "training")
TEST_WORDS = ("test", "testing", "val", "valid", "validation")
BRACKET_NUMBER = re.compile(r"\(([0-9]+)\)$")  # IRDST is released with frames named 1(12), also 1 (12)

EXPECTED_LAYOUTS = """expected one of the layouts
  images/NAME.png + masks/NAME.png              (with lists in img_idx/, 50_50/, idx_427/ or beside them)
  trainval/images + trainval/masks, test/images + test/masks   (or images/trainval + masks/trainval ...)
  IRSTD1k_Img/NAME.png + IRSTD1k_Label/NAME.png
  images/SEQUENCE/FRAME.png + masks/SEQUENCE/FRAME.png
  SEQUENCE/images/FRAME.png + SEQUENCE/masks/FRAME.png
  images/SEQUENCE.tif or .npy + masks/SEQUENCE.tif or .npy   (stacks, a page a frame)
  training/N_1.png + training/N_2.png, test_org/N.png + test_gt/N.png   (MDvsFA)
  boxes in place of masks: python -m datasets.from_boxes makes such a dataset of them"""


@dataclass(frozen=True)
class Frame:
    """An image file, or page of a stack, and its mask; a frame without a mask is context only."""

    name: str
    image: Path | StackPage
    mask: Path | StackPage | None

    @property
    def has_mask(self) -> bool:
        return self.mask is not None

    def read_image(self) -> np.ndarray:
        """The pixels as stored, [H, W]; raises `InputError` as `read_pixels` does."""
        return read_pixels(self.image)

    def read_mask(self, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        """The mask, bool [H, W], None for context; raises `InputError` if it is damaged or not of this `shape`."""
        if self.mask is None:
            return None
        mask = read_mask(self.mask)
        if shape is not None and mask.shape != shape:
            sizes = f"mask {self.mask} is {size_text(mask)}, its image {self.image} {shape[1]} x {shape[0]}"
            raise InputError(f"{sizes}; expected the same size")
        return mask


@dataclass(frozen=True)
class Sequence:
    """Frames in temporal order. A single image is a sequence of one frame with the same name.

    `whole`: all frames of the sequence that this is a part of, from which its grey range is taken; () if it is no part.
    """

    name: str
    frames: tuple[Frame, ...]
    whole: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The contents of a dataset's folder `root`; `folder_splits` is filled if folders, not lists, define the split.

    `without`: which images are left out, "" for none.
    """

    root: Path
    name: str
    kind: str
    sequences: list[Sequence]
    folder_splits: dict[str, list[Sequence]] = field(default_factory=dict)
    masks_without_image: list[Path] = field(default_factory=list)
    without: str = ""


def find_layout(root: Path) -> Layout:
    """Recognise the layout of `root` and list its sequences in numeric order; raises `InputError` for other layouts."""
    inner = _subfolders(root)
    unpacked = len(inner) == 1 and inner[0].name not in sum(FOLDER_PAIRS, ())
    # an archive that unpacked into a folder inside: a dataset with lists, rather than one sequence
    if unpacked and any(any(inner[0].glob(pattern)) for pattern in ("*.txt", "*/*.txt")):
        return find_layout(inner[0])
    pair = _pair_in(root)
    layout = _split_folders(root) or _mdvsfa(root) or (_paired(root, *pair) if pair else _sequence_folders(root))
    if layout:
        if not layout.sequences:
            suffixes = Counter(path.suffix or path.name for path in root.rglob("*") if path.is_file())
            files = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5)) or "none"
            expected = f"expected files ending in {', '.join(IMAGE_SUFFIXES)} in these places"
            raise InputError(f"no images in {root}, whose layout looks like {layout.name} (files: {files}); {expected}")
        return layout
    if unpacked:
        return find_layout(inner[0])
    contents = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    meant = f"; did you mean {root.parent}?" if _pair_in(root.parent) else ""
    raise InputError(f"no dataset layout recognised in {root} (it contains: {contents}){meant}; {EXPECTED_LAYOUTS}")


def is_contained(part: str, train: str) -> bool:
    """Whether the training part of this name holds another part: trainval is both training and validation."""
    return train.lower() == "trainval" and part.lower() in {*TRAIN_WORDS, *TEST_WORDS} - {"test", "testing"}


def _split_folders(root: Path) -> Layout | None:
    """PART/{images,masks} or {images,masks}/PART: "train" and "test", in any case, and further parts by their names."""
    pairs = {folder.name: pair for folder in _subfolders(root) if (pair := _pair_in(folder))}
    known = {*TRAIN_WORDS, *TEST_WORDS}
    if len(pairs) == 1 and known.issuperset(map(str.lower, pairs)):  # a part alone is no sequence of this name
        return _paired(root, *next(iter(pairs.values())))
    inside = _pair_in(root)
    names = [folder.name for folder in _subfolders(inside[0])] if inside and not _count_images(inside[0]) else []
    if names and known.issuperset(map(str.lower, names)):
        pairs, inside = {name: (inside[0] / name, inside[1] / name) for name in names}, None
    folders = {name.lower(): name for name in pairs}
    main = [next((folders[word] for word in words if word in folders), None) for words in (TRAIN_WORDS, TEST_WORDS)]
    if None in main and (inside or len(pairs) < 2 or not known.issuperset(folders)):
        return None
    others = [name for name in pairs if name not in main and not is_contained(name, main[0] or "")]
    named = zip(("train", "test", *others), (*main, *others), strict=True)
    chosen = {part: name for part, name in named if name}
    parts = {part: _paired(root, *pairs[name]) for part, name in chosen.items()}
    places = [str(pairs[name][0].relative_to(root)) for name in chosen.values()]
    if len({part.kind for part in parts.values()}) > 1:
        contents = ", ".join(f"{part.kind} in {place}" for part, place in zip(parts.values(), places, strict=True))
        raise InputError(f"{root} contains {contents}; expected single images or sequences in all")
    splits = {name: part.sequences for name, part in parts.items()}
    sequences = [sequence for part in parts.values() for sequence in part.sequences]
    orphans = [path for part in parts.values() for path in part.masks_without_image]
    name = "folders " + ", ".join(f"{place}{part.without}" for place, part in zip(places, parts.values(), strict=True))
    return Layout(root, name, next(iter(parts.values())).kind, sequences, splits, orphans)


def _mdvsfa(root: Path) -> Layout | None:
    """MDvsFA as released: training/N_1.png (image) and N_2.png (mask), test_org/N.png and test_gt/N.png."""
    training, images, masks = (root / name for name in MDVSFA_FOLDERS)
    if not all(path.is_dir() for path in (training, images, masks)):
        return None
    files = image_files(training)
    numbers = [stem.removesuffix("_1") for stem in files if stem.endswith("_1")]
    frames = [Frame(f"train_{number}", files[f"{number}_1"], files.get(f"{number}_2")) for number in numbers]
    orphans = [path for stem, path in files.items() if stem.endswith("_2") and stem[:-2] not in numbers]
    train = _single_images(frames)
    frames, others = _match(images, masks)
    test = _single_images(frames)
    name = f"{training.name}/N_1 + N_2, {images.name}/N + {masks.name}/N"
    return Layout(root, name, "images", train + test, {"train": train, "test": test}, orphans + others)


def _paired(root: Path, images: Path, masks: Path) -> Layout:
    """Folders of images and masks, with files (single images) or a folder or stack per sequence in each."""
    places = images.relative_to(root), masks.relative_to(root)
    folders, count = _subfolders(images), _count_images(images)
    inside, beside = sum(map(_count_images, folders)), _count_images(images, UNSTACKED_SUFFIXES)
    files = image_files(images, STACK_SUFFIXES)
    with ThreadPoolExecutor() as pool:  # a network disk takes its time for every file
        pages = {
            name: found or [files[name]]
            for name, found in zip(files, pool.map(stack_pages, files.values()), strict=True)
        }
    counts = [len(paths) for paths in pages.values()]
    single = counts.count(1)
    if sum(counts) - single > max(single + beside, inside):
        sequences, orphans = _match_stacks(pages, masks)
        name = f"{places[0]}/SEQUENCE.tif or .npy + {places[1]}/SEQUENCE, a page a frame"
        without = _without((beside, "image", "beside the stacks"), (inside, "image", "in folders"))
        return Layout(root, name, "sequences", sequences, masks_without_image=orphans, without=without)
    if not folders or 0 < count >= inside:
        frames, orphans = _match(images, masks)
        name = f"{places[0]}/NAME + {places[1]}/NAME"
        further = (sum(counts) - len(counts), "page", "after the first of a stack")
        without = _without(further, (inside, "image", "in folders"))
        return Layout(root, name, "images", _single_images(frames), masks_without_image=orphans, without=without)
    names = dict.fromkeys(folder.name for folder in (*folders, *_subfolders(masks)))
    sequences, orphans = _match_sequences({name: (images / name, masks / name) for name in names})
    bracketed = bool(sequences) and all(BRACKET_NUMBER.search(frame.name) for frame in sequences[0].frames)
    name = " + ".join(f"{place}/SEQUENCE/{'N(FRAME)' if bracketed else 'FRAME'}" for place in places)
    without = _without((count, "image", "beside the folders of the sequences"))
    return Layout(root, name, "sequences", sequences, masks_without_image=orphans, without=without)


def _without(*left_out: tuple[int, str, str]) -> str:
    """What a layout leaves out, by number, noun, and place; "" for nothing."""
    text = " and ".join(f"{counted(number, noun)} {place}" for number, noun, place in left_out if number)
    return f" (without {text})" if text else ""


def _match_stacks(pages: dict[str, list[Path | StackPage]], masks: Path) -> tuple[list[Sequence], list[Path]]:
    """A sequence for every file of pages, and the masks without images. Masks are the pages of a file, or the files of
    a folder, of the same name."""
    sequences, mask_stacks = [], image_files(masks, STACK_SUFFIXES)
    for name, images in pages.items():
        stack = mask_stacks.get(name)
        labels = stack_pages(stack) or [stack] if stack else list(image_files(masks / name).values())
        if labels and len(labels) != len(images):
            sizes = f"{os.fspath(images[0])} has {counted(len(images), 'page')}, its masks in {masks} are {len(labels)}"
            raise InputError(f"{sizes}; expected as many")
        pairs = zip(images, labels or [None] * len(images), strict=True)
        frames = (Frame(f"{number:06d}", image, mask) for number, (image, mask) in enumerate(pairs))
        sequences.append(Sequence(name, tuple(frames)))
    orphans = [*mask_stacks.values(), *_subfolders(masks)]
    return sequences, [path for path in orphans if path.name not in pages and path.stem not in pages]


def _sequence_folders(root: Path) -> Layout | None:
    """SEQUENCE/images and SEQUENCE/masks (NUDT-MIRSDT as released)."""
    folders = _subfolders(root)
    pairs = {folder.name: pair for folder in folders if (pair := _pair_in(folder))}
    sequences, orphans = _match_sequences(pairs)
    if not sequences:
        return None
    lists = ("train*.txt", "*/train*.txt")
    if datasets := [name for name in pairs if any(any((root / name).glob(pattern)) for pattern in lists)]:
        expected = f"expected sequences; give --data_root {root} --dataset {datasets[0]}"
        raise InputError(f"{root} contains datasets with lists ({', '.join(datasets)}), {expected}")
    name = "SEQUENCE/images + SEQUENCE/masks"
    if alone := [folder.name for folder in folders if folder.name not in pairs and (folder / "images").is_dir()]:
        name += f" (without masks/ a folder does not count: {', '.join(alone)})"
    return Layout(root, name, "sequences", sequences, masks_without_image=orphans)


def _pair_in(folder: Path) -> tuple[Path, Path] | None:
    pairs = ((folder / images, folder / masks) for images, masks in FOLDER_PAIRS)
    return next((pair for pair in pairs if all(path.is_dir() for path in pair)), None)


def _match(images: Path, masks: Path) -> tuple[list[Frame], list[Path]]:
    """Frames of a folder in order, each with its mask if there is one; and the masks without an image."""
    image_by_key = image_files(images, key=lambda path: file_key(path.stem))
    mask_files = image_files(masks, key=mask_key)
    frames = [Frame(path.stem, path, mask_files.get(key)) for key, path in image_by_key.items()]
    frames.sort(key=lambda frame: _frame_key(frame.name))
    return frames, [path for key, path in mask_files.items() if key not in image_by_key]


def _match_sequences(pairs: dict[str, tuple[Path, Path]]) -> tuple[list[Sequence], list[Path]]:
    """The sequences of named pairs of folders, without empty sequences, and the masks without an image."""
    matched = {name: _match(*pair) for name, pair in pairs.items()}
    sequences = [Sequence(name, tuple(frames)) for name, (frames, _) in matched.items() if frames]
    return sequences, [path for _, orphans in matched.values() for path in orphans]


def _frame_key(stem: str) -> tuple:
    bracket = BRACKET_NUMBER.search(stem)
    return (((0, int(bracket[1]), ""),), stem) if bracket else numeric_key(stem)


def _single_images(frames: list[Frame]) -> list[Sequence]:
    return [Sequence(frame.name, (frame,)) for frame in frames]


def _count_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> int:
    return sum(name.lower().endswith(suffixes) and name[0] != "." for name in os.listdir(folder))


def _subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    folders = (path for path in paths if path.is_dir() and not path.name.startswith((".", "__")))
    return sorted(folders, key=lambda path: numeric_key(path.name))
