"""Infrared datasets: found in any layout, checked, and served as clips."""

import importlib
from typing import Any

from istd.datasets.index import DatasetIndex, open_dataset, open_datasets
from istd.datasets.layouts import Frame, Sequence
from istd.utils.bare_names import share_with_istd

__all__ = ["ClipDataset", "ClipSample", "DatasetIndex", "Frame", "Sequence", "collate", "open_dataset", "open_datasets"]

share_with_istd(__name__)


def __getattr__(name: str) -> Any:
    """A name of `clips`, imported at its first use, since commands that only read files need not wait for PyTorch."""
    if name not in ("ClipDataset", "ClipSample", "collate"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("istd.datasets.clips"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
