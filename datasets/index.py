"""`open_dataset`: from the name or folder of a dataset to the sequences of its splits."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from istd.datasets.catalog import CATALOG, DatasetInfo
from istd.datasets.layouts import EXPECTED_LAYOUTS, Sequence, find_layout
from istd.datasets.path_config import DATASET_PATHS
from istd.datasets.split_lists import PUBLISHED_SPLITS, find_split, nearest_entry
from istd.utils.config import nearest
from istd.utils.errors import InputError
from istd.utils.names import counted

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_ROOT_VARIABLE = "ISTD_DATA_ROOT"
DATA_ROOT_HELP = "folder that contains the datasets by name; default: their folders in datasets/path_config.py"
SPLIT_FOLDER_HELP = "folder of the lists inside the dataset's folder, such as 50_50, if several have lists"


@dataclass(frozen=True)
class DatasetIndex:
    """A dataset on disk. `missing_entries`: part -> entries of its list without an image; `left_out`: sentences on
    files of the used parts that cannot be used (see `usable`)."""

    info: DatasetInfo
    root: Path
    layout: str
    sequences: list[Sequence]
    masks_without_image: list[Path]
    split_source: str
    parts: dict[str, list[Sequence]]
    missing_entries: dict[str, list[str]]
    left_out: tuple[str, ...] = ()

    def split(self, name: str) -> list[Sequence]:
        """Sequences of "train", "test" or another list of the dataset. Raises `InputError` if no frame has a mask."""
        if name not in self.parts:
            raise InputError(f"{self.info.name} has no split {name!r}; expected one of {', '.join(self.parts)}")
        if not self.parts[name]:
            contents = _count(self.info.kind, self.sequences)
            reason = f"the dataset has {contents}, but none in this part (split: {self.split_source})"
            if entries := self.missing_entries.get(name):
                first = f"{entries[0]!r}{nearest_entry(entries[0], self.sequences)}"
                reason = f"none of its entries is in {self.root} (split: {self.split_source}), for instance {first}"
            raise InputError(f"split {name!r} of {self.info.name} is empty: {reason}; add the images or the lists")
        frames = [frame for sequence in self.parts[name] for frame in sequence.frames]
        if not any(frame.has_mask for frame in frames):
            images = f"no image of split {name!r} of {self.info.name} has a mask, for instance {frames[0].image}"
            alone = f"; masks without an image: {self.masks_without_image[0]}" if self.masks_without_image else ""
            raise InputError(f"{images}{alone}; a mask needs the name of its image")
        return self.parts[name]

    @property
    def summary(self) -> str:
        """Layout, source of the split, counts, and missing entries in a line, and a line for each file left out."""
        parts = ", ".join(f"{name} {_count(self.info.kind, sequences)}" for name, sequences in self.parts.items())
        contents = f"{_count(self.info.kind, self.sequences)} in {self.root}, layout {self.layout}"
        text = f"{self.info.name}: {contents}; split ({self.split_source}): {parts}"
        if self.masks_without_image:
            text += f"; masks WITHOUT AN IMAGE: {len(self.masks_without_image)} (first: {self.masks_without_image[0]})"
        for part, entries in self.missing_entries.items():
            first = f"{entries[0]}{nearest_entry(entries[0], self.sequences)}"
            text += f"; entries of {part} WITHOUT A FILE: {len(entries)} (first: {first})"
        if self.left_out:
            text += f"; LEFT OUT by --skip_unusable: {len(self.left_out)}"
        return "\n    left out: ".join([text, *self.left_out])


def open_dataset(
    name_or_path: str | Path, data_root: str | Path | None = None, split_folder: str | None = None
) -> DatasetIndex:
    """Find a dataset by its name in path_config.py or the catalog (in any case), or any folder by path, and its splits.

    A name's folder is looked up in `data_root` (a folder that contains the datasets by name), else in the environment
    variable ISTD_DATA_ROOT, else in `datasets/path_config.py`. `demo` is rendered on first use. `split_folder`: the
    folder of the lists inside the dataset's folder, if several have lists. Raises `InputError` if there is no dataset.
    """
    names = {name.lower(): name for name in (*DATASET_PATHS, *CATALOG)}
    name = names.get(str(name_or_path).lower())
    root = _locate(name, data_root) if name else _locate_folder(str(name_or_path), data_root, names.values())
    layout = find_layout(root)
    name = name or names.get(root.name.lower(), root.name)
    info = CATALOG.get(name) or DatasetInfo(name, layout.kind)
    if info.kind != layout.kind:
        expected = f"{info.name} is a dataset of {info.kind}"
        raise InputError(f"{expected}, but {root} contains {layout.kind}; give the right folder")
    published = info.name if (PUBLISHED_SPLITS / info.name).is_dir() else None
    split = find_split(layout, dict.fromkeys((name, root.name)), published, info.published_split, split_folder)
    return DatasetIndex(
        info, layout.root, layout.name + layout.without, layout.sequences, layout.masks_without_image, *split
    )


def split_names(names: str) -> list[str]:
    """The names or folders joined by '+'; the name of an existing folder may have a '+' itself."""
    return [names] if Path(names).is_dir() else names.split("+")


def open_datasets(
    names: str, data_root: str | Path | None = None, split_folder: str | None = None
) -> list[DatasetIndex]:
    """`open_dataset` of names or folders joined by '+'; raises `InputError` where two datasets have the same name."""
    indices = [open_dataset(name, data_root, split_folder) for name in split_names(names)]
    called = [index.info.name for index in indices]
    if len(set(called)) < len(called):
        raise InputError(f"{names} has datasets called {called}; expected datasets of different names")
    return indices


def _locate(name: str, data_root: str | Path | None) -> Path:
    """Folder of a dataset known by name."""
    paths = {key.lower(): path for key, path in DATASET_PATHS.items()}
    configured = REPOSITORY / Path(paths.get(name.lower(), f"data/{name}")).expanduser()
    tried = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    root = Path(tried) / name if tried else configured
    if name == "demo" and not root.is_dir():
        from istd.datasets.synthetic import ensure_demo  # here, since no other dataset needs the renderer

        root = configured
        ensure_demo(root)
    if not root.is_dir():
        source = "--data_root" if data_root else DATA_ROOT_VARIABLE if tried else "datasets/path_config.py"
        links = CATALOG[name].links if name in CATALOG else ()
        raise InputError(
            f"{name} is not at {root} (from {source}); write its folder into datasets/path_config.py, or give "
            f"the folder that contains {name}/ with --data_root or {DATA_ROOT_VARIABLE}"
            f"{', or download it as named below' if links else ''}; {EXPECTED_LAYOUTS}"
            + "".join(f"\n  download: {link}" for link in links)
        )
    return root


def _locate_folder(path: str, data_root: str | Path | None, names: Iterable[str]) -> Path:
    """Folder given by its path, or by its name under the data root; `names`: of known datasets, for the error."""
    data_root = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    for root in (Path(path), *([Path(data_root) / path] if data_root else [])):
        if root.is_dir():
            return root.resolve()
    expected = f"expected one of {', '.join(names)}, or an existing folder"
    what = f"{path} is a file" if Path(path).is_file() else f"no dataset {path!r}"
    raise InputError(f"{what}{nearest(path, names)}; {expected}")


def _count(kind: str, sequences: list[Sequence]) -> str:
    """The numbers of images, or of sequences and frames, in words."""
    frames = [frame for sequence in sequences for frame in sequence.frames]
    with_mask = sum(frame.has_mask for frame in frames)
    count = counted(len(frames), "image" if kind == "images" else "frame")
    count += "" if with_mask == len(frames) else f" ({with_mask} with mask)"
    return count if kind == "images" else f"{counted(len(sequences), 'sequence')}, {count}"
