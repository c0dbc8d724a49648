"""The frames that are measured, wherever their maps come from."""

from pathlib import Path
from typing import NamedTuple

from istd.datasets import DatasetIndex, Sequence
from istd.datasets.catalog import PublishedMetrics
from istd.datasets.coco_truth import BOXES_FILE, coco_names
from istd.utils.errors import InputError
from istd.utils.images import file_key, mask_key, read_list
from istd.utils.metrics.saved_maps import Pair, ending_advice, key_names, list_predictions
from istd.utils.names import list_names


class FrameRef(NamedTuple):
    """A frame that has a mask; `sequence` is None for a single image."""

    sequence: str | None
    name: str
    time: int  # number within the sequence, counting frames without a mask
    mask: Path
    image: Path | None  # None where only the map and the mask are known
    image_id: int  # in files of detections in COCO's format
    file_name: str  # of the image there

    @property
    def row_names(self) -> tuple[str, str]:
        """Sequence and frame in tables of detections, where a single image is a sequence of its name."""
        return self.sequence or self.name, self.name


class FrameSet(NamedTuple):
    """The frames of a dataset in the order of their results.

    `root` is its folder, which may hold targets.csv and boxes.json; `summary` is printed before the work.
    """

    name: str
    frames: list[FrameRef]
    root: Path | None = None
    published: tuple[PublishedMetrics, ...] = ()
    summary: str = ""

    @property
    def has_boxes(self) -> bool:
        return self.root is not None and (self.root / BOXES_FILE).is_file()

    @property
    def in_sequences(self) -> bool:
        return any(frame.sequence is not None for frame in self.frames)


def dataset_frames(index: DatasetIndex, sequences: list[Sequence]) -> FrameSet:
    """The frames of these `sequences` of a dataset that have a mask, in the order of `ClipDataset.targets`."""
    single, names = index.info.kind == "images", coco_names(index)
    frames = [
        FrameRef(None if single else sequence.name, frame.name, time, frame.mask, frame.image, *names[frame.image])
        for sequence in sequences
        for time, frame in enumerate(sequence.frames)
        if frame.has_mask
    ]
    return FrameSet(index.info.name, frames, index.root, index.info.metrics, index.summary)


def read_names(path: Path) -> set[str]:
    """The names in the file of --list; raises `InputError` if it is empty."""
    names = set(read_list(path))
    if not names:
        raise InputError(f"--list {path} is empty; expected a name in each line")
    return names


def choose_frames(frame_set: FrameSet, names: set[str]) -> FrameSet:
    """The frames that `names` (NAME, SEQUENCE or SEQUENCE/NAME) select; `InputError` for a name without a frame."""
    keys = {frame: set(key_names((frame.sequence, frame.name))) for frame in frame_set.frames}
    wanted = {file_key(name) for name in names}
    if missing := sorted(wanted - set().union(*keys.values())):
        lacking = list_names(missing)
        raise InputError(f"{frame_set.name} has no {lacking} of the list in this split; check the list's names")
    return frame_set._replace(frames=[frame for frame, frame_names in keys.items() if frame_names & wanted])


def dataset_pairs(predictions: Path, frames: list[FrameRef], ending: str = "") -> list[Pair]:
    """The saved map of every frame, in SEQUENCE/FRAME or FRAME.npy or .png; other maps in the folder do not count.

    `ending`: of the maps' names, before the suffix. Raises `InputError` for frames without a map.
    """
    files = list_predictions(predictions, ending)
    keys = [(frame.sequence and file_key(frame.sequence), mask_key(Path(f"{frame.name}.png"))) for frame in frames]
    if missing := ["/".join(filter(None, key)) for key in keys if key not in files]:
        advice = ending_advice(files, dict.fromkeys(keys))
        raise InputError(f"{predictions} has no map of {list_names(missing)}; save the maps of all frames{advice}")
    return [
        Pair(frame.sequence, frame.name, files[key], frame.mask, frame.time)
        for frame, key in zip(frames, keys, strict=True)
    ]


def pair_frames(name: str, pairs: list[Pair], images: list[Path] | list[None]) -> FrameSet:
    """The frames of saved maps and masks, with their images, None if these are not known."""
    frames = []
    for number, (pair, image) in enumerate(zip(pairs, images, strict=True), start=1):
        file_name = "/".join(part for part in (pair.sequence, pair.mask.name) if part)
        frames.append(FrameRef(pair.sequence, pair.frame, pair.time, pair.mask, image, number, file_name))
    return FrameSet(name, frames)
