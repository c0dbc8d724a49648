"""Find the image files and videos that annotations name, and name the images of the new dataset."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from istd.datasets.boxes.annotations import ANTI_UAV, CSV, Annotations, path_ends, telling_parts, visible_files
from istd.datasets.boxes.readers import IMAGE_FOLDERS, PARTS, AnnotatedImage
from istd.utils.errors import InputError
from istd.utils.images import IMAGE_SUFFIXES, file_key, last_number, numeric_key
from istd.utils.video import VIDEO_SUFFIXES, count_frames

NO_SEQUENCE = {*IMAGE_FOLDERS, *PARTS}
NO_CLIP = {"infrared", "ir", "video"}  # a video with such a name is named after its folder
SURE_COMPONENTS = 2  # components (folder and file name) in which two paths must agree if the folders above differ


class Source(NamedTuple):
    """An image file; or a frame, counted from 0, of a video."""

    path: Path
    number: int | None = None


class Item(NamedTuple):
    """An image of the new dataset; `sequence`: None for single images."""

    sequence: str | None
    name: str
    source: Source
    annotation: AnnotatedImage

    @property
    def file_name(self) -> str:
        """The image's path in the new dataset's folder of images."""
        suffix = self.source.path.suffix if self.source.number is None else ".png"
        return "/".join(filter(None, (self.sequence, self.name + suffix)))


class Plan(NamedTuple):
    """The contents of the new dataset.

    `items` in order; `missing`: names of annotated images without a file; `unannotated`: files that are left out since
    no annotation names them; `assumed_empty`: the number of items without annotation, taken to show no object.
    """

    items: list[Item]
    missing: list[str]
    unannotated: list[str]
    assumed_empty: int


def make_plan(annotations: Annotations, images: Path, kind: str | None, stride: int) -> Plan:
    """Find the image of every annotation in `images`, a folder or a video.

    kind: "images" or "sequences"; None: sequences where the annotations have them, where there are videos, or where all
    images lie in folders with names other than a part's or "images". stride: take every n-th frame of a sequence.
    Raises `InputError` where there are no annotated images, or none of their files.
    """
    if not annotations.images:
        raise InputError(f"{annotations.files[0]} names no image; give annotations that hold boxes")
    files = ImageFiles(images, annotations.images)
    matched: dict[Source, AnnotatedImage] = {}
    unfound = []
    for annotation in annotations.images:
        source = files.find(annotation)
        if source is None:
            unfound.append(annotation)
        elif source in matched:
            names = f"{_describe(matched[source])} and {_describe(annotation)}"
            raise InputError(f"{names} both name {source.path}; rename one")
        else:
            matched[source] = annotation
    missing = [_describe(annotation) for annotation in unfound]
    if not matched:
        annotated = f"the annotated images ({len(missing)}, the first {missing[0]})"
        raise InputError(f"--images {images} has none of {annotated}; give the folder that they lie in, or the video")
    empty = _unnamed_images(annotations, matched, files) if annotations.format.unnamed_is_empty else {}
    unlabelled = {file_key(source.path.stem): source.path for source in empty if not source.path.stem.isdecimal()}
    for annotation in unfound:
        if path := unlabelled.get(file_key(_parts(annotation)[-1])):
            text = f"{_describe(annotation)} is annotated, {path} is not, and they have the same name"
            raise InputError(
                f"{text}; put images and annotations into folders of the same names, or rename one of them"
            )
    matched |= empty
    sequences = kind == "sequences" or (kind is None and _is_sequences(annotations, matched, files.root))
    names = _names(matched, files.root, sequences)
    items, position = [], Counter()
    for source in sorted(matched, key=lambda source: [numeric_key(name or "") for name in names[source]]):
        sequence = names[source][0]
        if not sequences or position[sequence] % stride == 0:
            items.append(Item(*names[source], source, matched[source]))
        position[sequence] += 1
    unannotated = [str(path) for path in files.images if Source(path) not in matched]
    return Plan(items, missing, unannotated, sum(item.source in empty for item in items))


class ImageFiles:
    """The images and videos in a folder, found by the ends of their paths.

    Where the annotations do not have the folder's name, images that lie in no further folder are also found by a file
    name that they alone have, and if the annotations are of a single sequence, its folder or video may have any name.
    """

    def __init__(self, images: Path, annotated: list[AnnotatedImage]):
        if not images.exists():
            raise InputError(f"--images {images} does not exist; give a folder of images or videos, or a video")
        self.root = images if images.is_dir() else images.parent
        files = [images] if images.is_file() else visible_files(images)
        self.images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        self.videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        self.count_frames = lru_cache(maxsize=None)(count_frames)  # which reads the whole video
        if not self.images and not self.videos:
            raise InputError(f"--images {images} has neither images ({', '.join(IMAGE_SUFFIXES)}) nor videos")
        self._by_end: dict[tuple, Path | None] = {}  # None: several files
        self._in_folder: dict[Path, list[Path]] = defaultdict(list)
        self._places: dict[tuple[str, ...], Path | None] = {}  # sequences -> their folders or videos
        name = next((part for part in reversed(self.root.resolve().parts) if part.lower() not in IMAGE_FOLDERS), "")
        by_number: dict[tuple, Path | None] = {}  # by the last number in the name instead of the name
        for path in self.images:
            self._in_folder[path.parent].append(path)
            *folders, stem = (name, *path.relative_to(self.root).with_suffix("").parts)
            _add(self._by_end, path_ends((*folders, stem)), path)
            if (number := last_number(stem)) is not None:
                _add(by_number, [end for end in path_ends((*folders, str(number))) if len(end) > 1], path)
        self._by_end = by_number | self._by_end
        paths = {_annotated_folders(annotation) for annotation in annotated}
        is_foreign = all(folders[-1:] != (file_key(name),) for folders in paths)
        self._any_name = is_foreign and len({_sequence_folders(folders) for folders in paths}) == 1
        stems = Counter(file_key(_parts(annotation)[-1]) for annotation in annotated if annotation.number is None)
        unique = (stem for stem, count in stems.items() if count == 1 and not stem.isdecimal())
        self._unique = set(unique) if is_foreign else set()

    def sources(self, places: Container[Path] | None = None) -> Iterator[Source]:
        """All image files, then all frames of the videos; `places`: only those in these folders and videos."""
        yield from (Source(path) for path in self.images if places is None or path.parent in places)
        for video in self.videos:
            if places is None or video in places:
                yield from (Source(video, number) for number in range(self.count_frames(video)))

    def find(self, annotation: AnnotatedImage) -> Source | None:
        """The image of an annotation, or None; `InputError` where several files could be meant."""
        if annotation.number is not None:
            return self._find_frame(tuple(annotation.name.split("/")), annotation.number)
        parts = _parts(annotation)
        if end := next((end for end in path_ends(parts) if end in self._by_end), None):
            path = self._by_end[end]
            is_sure = len(telling_parts(end)) >= min(SURE_COMPONENTS, len(telling_parts(parts)))
            if path is None and is_sure:
                text = f"several files in {self.root} may be {annotation.name}"
                raise InputError(f"{text}; give a folder further inside, or the files' names in the annotations")
            by_name = self._any_name or end[-1] in self._unique
            if path and (is_sure or (by_name and not _folders(path, self.root))):
                return Source(path)
        number = last_number(parts[-1])
        return self._find_frame(parts[:-1], number) if self.videos and number is not None else None

    def _find_frame(self, sequence: tuple[str, ...], number: int) -> Source | None:
        """Frame `number` of the sequence with this path: a folder, in numeric order, or a video."""
        if sequence not in self._places:
            self._places[sequence] = self._find_folder(sequence) or self._find_video(sequence)
        place = self._places[sequence]
        if place in self.videos:
            return Source(place, number) if number < self.count_frames(place) else None
        frames = self._in_folder.get(place, [])
        return Source(frames[number]) if number < len(frames) else None

    def _find_folder(self, sequence: tuple[str, ...]) -> Path | None:
        """The folder whose path shares the most ends with the sequence's path."""
        ends = set(path_ends(sequence))
        shared = {folder: len(ends & set(path_ends(folder.resolve().parts))) for folder in self._in_folder}
        best = max(shared, key=shared.__getitem__, default=None)
        return best if best is not None and shared[best] else None

    def _find_video(self, sequence: tuple[str, ...]) -> Path | None:
        """The video named as the path's last component, or in a folder of that name; else the only one, if allowed."""
        name = file_key(sequence[-1]) if sequence else None
        named = [video for video in self.videos if file_key(video.stem) == name]
        inside = [video for video in self.videos if file_key(video.resolve().parent.name) == name]
        infrared = [video for video in inside if video.stem.lower().startswith(("ir", "infrared"))]
        candidates = named or infrared or inside or (self.videos if self._any_name else [])
        if len(candidates) > 1 and (named or inside):
            text = f"{'/'.join(sequence)} may be {candidates[0]} or {candidates[1]}"
            raise InputError(f"{text}; give the right video as --images")
        return candidates[0] if len(candidates) == 1 else None


def _unnamed_images(
    annotations: Annotations, matched: dict[Source, AnnotatedImage], files: ImageFiles
) -> dict[Source, AnnotatedImage]:
    """Images that no annotation names, without boxes: all images for YOLO labels, frames of its sequences for a csv."""
    parts = {_place(source): annotation.part for source, annotation in matched.items()}
    of_csv, unnamed = annotations.format is CSV, {}
    for source in files.sources(parts if of_csv else None):
        if source not in matched:
            name = source.path.relative_to(files.root).as_posix()
            part = parts[_place(source)] if of_csv else annotations.part_of(source.path, files.root)
            unnamed[source] = AnnotatedImage(name, [], part)
    return unnamed


def _add(table: dict[tuple, Path | None], ends: list[tuple], path: Path) -> None:
    """Enter a file into a table of ends, in which None marks the ends of several files."""
    for end in ends:
        table[end] = path if table.get(end, path) == path else None


def _parts(annotation: AnnotatedImage) -> tuple[str, ...]:
    """The path of an annotated image file, without its ending."""
    name = PurePosixPath(annotation.name)
    return (name.with_suffix("") if name.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) else name).parts


def _annotated_folders(annotation: AnnotatedImage) -> tuple[str, ...]:
    """The folders in the path of an annotated image; for a numbered frame, those of its sequence and its name."""
    parts = PurePosixPath(annotation.name).parts
    folders = parts[:-1] if annotation.number is None else parts
    return tuple(file_key(folder) for folder in folders if folder.lower() not in IMAGE_FOLDERS)


def _place(source: Source) -> Path:
    """The folder or the video that contains a frame."""
    return source.path.parent if source.number is None else source.path


def _describe(annotation: AnnotatedImage) -> str:
    return annotation.name if annotation.number is None else f"{annotation.name}, frame {annotation.number}"


def _is_sequences(annotations: Annotations, matched: Iterable[Source], root: Path) -> bool:
    if annotations.format in (ANTI_UAV, CSV):
        return True
    return all(source.number is not None or _folders(source.path, root) for source in matched)


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    """The folders of a file from `root` that may name a sequence."""
    return _sequence_folders(path.relative_to(root).parts[:-1])


def _sequence_folders(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(folder for folder in folders if folder.lower() not in NO_SEQUENCE)


def _names(matched: Iterable[Source], root: Path, sequences: bool) -> dict[Source, tuple[str | None, str]]:
    """Sequence (None for single images) and frame name of every source; equal names are extended by their folders.

    Raises `InputError` for two files in a folder whose names differ in the suffix alone.
    """
    frames = {source: source.path.stem if source.number is None else f"{source.number:06d}" for source in matched}
    full = {place: "_".join(_stems(place.relative_to(root))) for place in map(_place, matched)}
    if sequences:
        short = {place: _sequence_name(place, root) for place in full}
        counts = Counter(short.values())
        places = {place: name if counts[name] == 1 else full[place] for place, name in short.items()}
        names = {source: (places[_place(source)], frame) for source, frame in frames.items()}
    elif len(set(frames.values())) == len(frames):
        names = {source: (None, frame) for source, frame in frames.items()}
    else:
        names = {source: (None, f"{full[_place(source)]}_{frame}".strip("_")) for source, frame in frames.items()}
    sources: dict[tuple, Source] = {}
    for source, name in names.items():
        if (other := sources.setdefault(name, source)) != source:
            raise InputError(f"{other.path} and {source.path} have the same name; rename or remove one of them")
    return names


def _sequence_name(place: Path, root: Path) -> str:
    """A video's name, if it says anything; else the last folder that may name a sequence."""
    folders = _folders(place / "frame" if place.is_dir() else place, root)
    if not place.is_dir() and not (folders and place.stem.lower() in NO_CLIP):
        return place.stem
    return folders[-1] if folders else place.resolve().name


def _stems(path: Path) -> tuple[str, ...]:
    """The parts of a folder's or a video's path, the latter without its suffix."""
    return (path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path).parts
