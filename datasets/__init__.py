"""Infrared datasets: found in any layout, checked, and served as clips."""

from istd.datasets.clips import ClipDataset, ClipSample, collate
from istd.datasets.index import DatasetIndex, open_dataset, open_datasets
from istd.datasets.layouts import Frame, Sequence
from istd.utils.bare_names import share_with_istd

__all__ = ["ClipDataset", "ClipSample", "DatasetIndex", "Frame", "Sequence", "collate", "open_dataset", "open_datasets"]

share_with_istd(__name__)
