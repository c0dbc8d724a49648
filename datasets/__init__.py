"""Infrared datasets: found in any layout, checked, and served as clips."""

from istd.datasets.clips import ClipDataset, ClipSample, collate
from istd.datasets.index import DatasetIndex, open_dataset, open_datasets
from istd.datasets.layouts import Frame, Sequence

__all__ = ["ClipDataset", "ClipSample", "DatasetIndex", "Frame", "Sequence", "collate", "open_dataset", "open_datasets"]
