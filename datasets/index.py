"""`open_dataset`: from a name or a folder to the sequences of its splits."""

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from datasets.catalog import CATALOG, DatasetInfo
from datasets.layouts import EXPECTED_LAYOUTS, find_layout
from datasets.path_config import DATASET_PATHS
from datasets.rendered_dataset import ensure_demo
from datasets.sequences import Sequence
from datasets.split_lists import find_split
from utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_ROOT_VARIABLE = "ISTD_DATA_ROOT"


@dataclass(frozen=True)
class DatasetIndex:
    """A dataset as found on the disk. `missing_entries`: split -> list entries without an image there."""

    info: DatasetInfo
    root: Path
    layout: str
    split_source: str
    sequences: list[Sequence]
    parts: dict[str, list[Sequence]]
    missing_entries: dict[str, list[str]] = field(default_factory=dict)
    masks_without_image: list[Path] = field(default_factory=list)

    def split(self, name: str) -> list[Sequence]:
        """Sequences of "train", "test" or a further list of the dataset. Raises `InputError` if there are none."""
        if name not in self.parts:
            raise InputError(f"{self.info.name} has no split {name!r}; expected one of {', '.join(self.parts)}")
        if not self.parts[name]:
            raise InputError(
                f"split {name!r} of {self.info.name} is empty: none of its entries lie in {self.root} "
                f"(split from {self.split_source}); add the images or the lists"
            )
        return self.parts[name]

    @property
    def summary(self) -> str:
        """One line: layout, source of the split, counts, and what of the split is missing."""
        parts = ", ".join(f"{name} {_count(self.info.kind, sequences)}" for name, sequences in self.parts.items())
        lost = [
            f"{len(entries)} entries of {part} are not on the disk (first: {entries[0]})"
            for part, entries in self.missing_entries.items()
        ]
        return (
            f"{self.info.name}: {_count(self.info.kind, self.sequences)} in {self.root}, layout {self.layout}; "
            f"split from {self.split_source}: {parts}" + "".join(f"; MISSING: {text}" for text in lost)
        )


def open_dataset(name_or_path: str | Path, data_root: str | Path | None = None) -> DatasetIndex:
    """Find a dataset of the catalog by name, or any folder of the same shape by path, and its splits.

    `data_root` (a folder that holds the datasets by name), then the environment variable ISTD_DATA_ROOT, then
    `datasets/path_config.py` tell where a name lies. `demo` is rendered on first use.
    Raises `InputError` where nothing is found or recognised.
    """
    name = str(name_or_path)
    known = {key.lower(): key for key in CATALOG}.get(name.lower())
    root = _locate(known, data_root) if known else _locate_path(name, data_root)
    layout = find_layout(root)
    info = CATALOG.get(known or root.name) or DatasetInfo(root.name, layout.kind)
    if info.kind != layout.kind:
        raise InputError(
            f"{info.name} is a dataset of {info.kind}, but {root} holds {layout.kind}; give its own folder"
        )
    split = find_split(layout, dict.fromkeys((info.name, root.name)), info.name if info.published_split else None)
    return DatasetIndex(
        info=info,
        root=layout.root,
        layout=layout.name,
        split_source=split.source,
        sequences=layout.sequences,
        parts=split.parts,
        missing_entries=split.missing,
        masks_without_image=layout.masks_without_image,
    )


def open_datasets(names: str, data_root: str | Path | None = None) -> list[DatasetIndex]:
    """`open_dataset` for one or several names or folders joined by '+'; `InputError` where two have the same name."""
    indices = [open_dataset(name, data_root) for name in names.split("+")]
    found = [index.info.name for index in indices]
    if len(set(found)) < len(found):
        raise InputError(f"{names} has datasets called {found}; expected datasets of different names")
    return indices


def _locate(name: str, data_root: str | Path | None) -> Path:
    """Folder of a dataset of the catalog."""
    tried = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    configured = REPOSITORY / Path(DATASET_PATHS[name]).expanduser()
    root = Path(tried) / name if tried else configured
    if name == "demo" and not root.is_dir():
        root = configured
        ensure_demo(root)
    if not root.is_dir():
        said_by = "--data_root" if data_root else DATA_ROOT_VARIABLE if tried else "datasets/path_config.py"
        raise InputError(
            f"{name} is not at {root} (from {said_by}); write its folder into datasets/path_config.py, or name "
            f"a folder that holds {name}/ with --data_root or {DATA_ROOT_VARIABLE}; {EXPECTED_LAYOUTS}"
        )
    return root


def _locate_path(name: str, data_root: str | Path | None) -> Path:
    """Folder given as a path, or by its name under the data root."""
    data_root = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    for root in (Path(name), *([Path(data_root) / name] if data_root else [])):
        if root.is_dir():
            return root.resolve()
    close = difflib.get_close_matches(name, CATALOG, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(
        f"no dataset {name!r}: expected one of {', '.join(CATALOG)}, or an existing folder{hint}; {EXPECTED_LAYOUTS}"
    )


def _count(kind: str, sequences: list[Sequence]) -> str:
    frames = [frame for sequence in sequences for frame in sequence.frames]
    with_mask = sum(frame.mask is not None for frame in frames)
    unit = "images" if kind == "images" else "frames"
    images = f"{len(frames)} {unit}" + ("" if with_mask == len(frames) else f" ({with_mask} with mask)")
    return images if kind == "images" else f"{len(sequences)} sequences, {images}"
