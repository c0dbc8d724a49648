"""`Predictor`: frames in, probability maps, masks and detections out, for scripts and notebooks.

>>> from istd.test_script.predictor import Predictor
>>> predictor = Predictor.from_checkpoint("weights/datransnet.pth")  # device="cuda" for a GPU
>>> result = predictor(frames)  # numpy [N, H, W] or [N, H, W, 3]: uint8, uint16 or float in 0..1
>>> result.probability.shape == result.mask.shape == frames.shape
True
>>> [len(detections) for detections in result.detections]  # of each frame, with x, y, a box, area, mean and peak score
[1, 1, 1]

The network alone, for other uses, comes from `models`:

>>> from istd.models import load_model
>>> network = load_model("weights/datransnet.pth")  # clip [B, T, C, H, W] -> logits [B, 1, H, W]
"""

import importlib
from typing import Any

from istd.test_script.predictor.outputs import FrameResult, Prediction, ScoreMaps

__all__ = ["PUBLISHED_SCALES", "FrameResult", "Prediction", "Predictor", "ScoreMaps"]

PUBLISHED_SCALES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # of --msc in SGMP-UNet's 2026 release


def __getattr__(name: str) -> Any:
    """`Predictor`, imported at its first use, since commands that measure saved maps need not wait for PyTorch."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("istd.test_script.predictor.predictor").Predictor


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
