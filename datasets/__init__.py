"""Infrared datasets: found in any layout, checked, and served as clips."""

import utils  # noqa: F401  (before torch)
from datasets.clips import ClipDataset, ClipSample, collate
from datasets.index import DatasetIndex, open_dataset, open_datasets
from datasets.layouts import Frame, Sequence

__all__ = ["ClipDataset", "ClipSample", "DatasetIndex", "Frame", "Sequence", "collate", "open_dataset", "open_datasets"]
