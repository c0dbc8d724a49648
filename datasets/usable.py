"""Find the files of a dataset that cannot be used, by their headers, and masks that look wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from istd.datasets.fingerprint import fingerprint, image_digests
from istd.datasets.index import DatasetIndex, split_names
from istd.datasets.layouts import Frame, Sequence
from istd.datasets.split_lists import PUBLISHED_SPLITS
from istd.utils.errors import InputError
from istd.utils.image_headers import read_size
from istd.utils.images import inspect_mask, read_list, read_pixels, size_text
from istd.utils.items import spread
from istd.utils.names import list_names

MAX_TARGET_SHARE = 0.5  # of an image; a mask of more is probably inverted
LARGE_SHARE = 0.1  # of an image; far more than small targets have
MAX_MASKS = 64  # spread over a dataset, to look at before it is used; datasets.check looks at all
FILES_AT_ONCE = 8


class Unusable(NamedTuple):
    """Why a file cannot be used: the kind of fault, and a sentence that names the file and the reason."""

    kind: str
    text: str


class Inspection(NamedTuple):
    """The headers of a frame's files: the usable frame (without a faulty mask), its size "W x H", and the fault."""

    usable: Frame | None = None
    size: str = ""
    fault: Unusable | None = None


def inspect_frame(frame: Frame) -> Inspection:
    """Read the headers of a frame's files."""
    try:
        size = _size(frame.image)
    except InputError as error:
        return Inspection(fault=Unusable("unreadable files", str(error)))
    try:
        mask_size = _size(frame.mask) if frame.has_mask else size
    except InputError as error:
        return Inspection(replace(frame, mask=None), size, Unusable("unreadable files", str(error)))
    if mask_size == size:
        return Inspection(frame, size)
    text = f"mask {frame.mask} is {mask_size}, its image {frame.image} {size}; expected one size"
    return Inspection(replace(frame, mask=None), size, Unusable("masks that differ in size from their image", text))


def _size(path: str | Path) -> str:
    """The size "W x H" from the header of a file, or from its pixels if the header is not understood."""
    try:
        return "{} x {}".format(*read_size(path))
    except InputError:
        return size_text(read_pixels(path))


def odd_sizes(sizes: Mapping[Frame, str]) -> dict[Frame, Unusable]:
    """Frames whose size differs from most of their sequence; sizes: "W x H" of its readable frames."""
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else ""
    kind = "frames of other sizes in a sequence (of use to single-frame networks only)"
    return {
        frame: Unusable(kind, f"frame {frame.image} is {size}, most of its sequence {usual}; expected one size")
        for frame, size in sizes.items()
        if size != usual
    }


def check_usable(
    sequences: list[Sequence], skip: bool = False, num_frames: int = 1
) -> tuple[list[Sequence], list[Unusable]]:
    """The sequences without files that cannot be used, and the faults of these files.

    Without `skip`, a fault raises an `InputError`, which names the file and the option. With it, a frame whose mask
    alone is faulty becomes context, like an image without a mask in a sequence; a single image without a mask is left
    out. For clips of several frames, `num_frames`, the frames of a sequence need equal sizes.
    """
    frames = [frame for sequence in sequences for frame in sequence.frames]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        inspected = dict(zip(frames, pool.map(inspect_frame, frames), strict=True))
    for sequence in sequences if num_frames > 1 else ():
        sizes = {frame: inspected[frame].size for frame in sequence.frames if inspected[frame].usable}
        inspected |= {frame: Inspection(fault=fault) for frame, fault in odd_sizes(sizes).items()}
    left_out = [inspection.fault for inspection in inspected.values() if inspection.fault]
    if not skip:
        if left_out:
            more = f" ({len(left_out)} files cannot be used)" if len(left_out) > 1 else ""
            raise InputError(f"{left_out[0].text}{more}; mend them, or leave them out with --skip_unusable")
        return sequences, []
    kept = []
    for sequence in sequences:
        usable = tuple(inspected[frame].usable for frame in sequence.frames if inspected[frame].usable)
        if len(sequence.frames) == 1 and usable and usable[0].mask is None:
            if sequence.frames[0].mask is None:
                left_out.append(Unusable("images without mask", f"image {usable[0].image} has no mask"))
        elif usable:
            kept.append(replace(sequence, frames=usable))
    return kept, left_out


def usable_index(index: DatasetIndex, parts: Iterable[str], skip: bool = False, num_frames: int = 1) -> DatasetIndex:
    """`index` with the usable frames of these `parts`, see `check_usable`; its `left_out` names the other files.

    Raises `InputError` for frames that are in the training part and in another part, and as `check_usable` does.
    """
    parts = list(dict.fromkeys(parts))
    if shared := shared_frames(index, parts):
        raise InputError(
            f"{index.info.name}: frames are in two parts of the split ({index.split_source}): {list_names(shared, 1)}; "
            "a test on images that were trained on means nothing: correct the lists"
        )
    usable = {name: check_usable(index.split(name), skip, num_frames) for name in parts}
    left_out = dict.fromkeys(fault.text for _, faults in usable.values() for fault in faults)
    kept = index.parts | {name: sequences for name, (sequences, _) in usable.items()}
    return replace(index, parts=kept, left_out=tuple(left_out))


def trained_on_line(index: DatasetIndex, part: str, settings: Mapping[str, Any]) -> str | None:
    """A warning if the images of `part` are not new to weights that were trained with these `settings`.

    Either `settings["data"]` (see `train_script.run_record`) has the fingerprint of these very images, or the digests
    of some of them, for training or selection, or some are in the published training list of a dataset that
    `settings["dataset"]` names. A sequence is recognised by its first image with a mask, unless several sequences begin
    with the same image, such as a black frame.
    """
    name, tested, record = index.info.name, index.parts[part], settings.get("data", ())
    images, digest = f"{index.info.kind} of {part}", fingerprint(tested)
    digests = _without_repeated(image_digests(tested) if any("images" in dataset for dataset in record) else ())
    for role, use in (("train", "on which these weights were trained"), ("val", "by which these weights were chosen")):
        if any(dataset.get(role, {}).get("fingerprint") == digest for dataset in record):
            return f"warning: the {images} are those {use}: the metrics are too good"
        known = (_without_repeated(dataset.get("images", {}).get(role, "").split()) for dataset in record)
        if count := len(digests & set().union(*known)):
            return f"warning: {count} of the {len(tested)} {images} are among those {use}: the metrics are too good"
    known = {Path(trained).name.lower() for trained in split_names(settings.get("dataset") or "")}
    file = PUBLISHED_SPLITS / name / "train.txt"
    trained = set(read_list(file)) if name.lower() in known and file.is_file() else set()
    count = sum(sequence.name in trained for sequence in tested)
    where = f"{count} of the {len(tested)} {images} are in the published training list of {name}"
    return f"warning: {where}, on which these weights were trained: the metrics are too good" if count else None


def _without_repeated(digests: Iterable[str]) -> set[str]:
    return {digest for digest, count in Counter(digests).items() if count == 1}


def shared_frames(index: DatasetIndex, parts: Iterable[str] = ()) -> list[str]:
    """Images of frames with a mask that are both in the training part and in the test part or another of `parts`."""

    def images(part: str) -> set[str]:
        sequences = index.parts.get(part, ())
        return {str(frame.image) for sequence in sequences for frame in sequence.frames if frame.has_mask}

    others = [part for part in dict.fromkeys(["test", *parts]) if not part.startswith("train")]
    return [f"{image} (train and {part})" for part in others for image in sorted(images("train") & images(part))]


def mask_lines(name: str, sequences: Iterable[Sequence]) -> list[str]:
    """A line for each way in which up to MAX_MASKS masks, spread over the sequences, look odd."""
    masks = [frame.mask for sequence in sequences for frame in sequence.frames if frame.has_mask]
    masks = spread(masks, MAX_MASKS)
    grey: dict[str, list[str]] = {}  # by the rule of what is target
    large, shows_target = [], False
    for path in masks:
        mask, levels = inspect_mask(path)
        share = float(mask.mean())
        shows_target |= share > 0
        if levels:
            grey.setdefault(levels.partition(", ")[2], []).append(f"{path} ({levels})")
        if share > LARGE_SHARE:
            large.append(f"{path} ({share:.0%})")
    looked = f"of {len(masks)} masks looked at"
    lines = [f"{name}: {len(paths)} {looked} have more than two levels: {paths[0]}" for paths in grey.values()]
    if large:
        share = f"more than {LARGE_SHARE:.0%} of the image, far more than small targets have"
        lines.append(f"{name}: warning: {len(large)} {looked} make target of {share}; inverted? {large[0]}")
    if masks and not shows_target:
        lines.append(f"{name}: warning: none {looked} shows a target")
    return lines
