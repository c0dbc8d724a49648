"""The outputs of a `Predictor`: score maps, and the results for several frames or for a frame of a stream."""

from typing import NamedTuple

import numpy as np

from istd.test_script.predictor.detections import Detection
from istd.utils.names import counted


class ScoreMaps(NamedTuple):
    """Scores of a target frame, float32 [h, w] at the requested size; None where not requested."""

    probability: np.ndarray | None  # mean over scales and flips of sigmoid(logits)
    logit: np.ndarray | None  # mean over flips of the logits at scale 1
    log_odds: np.ndarray | None = None  # logit of `probability` before rounding: it ranks what float32 rounds to 1

    def __repr__(self) -> str:
        sizes = (
            f"{name} {map_.shape[0]} x {map_.shape[1]}" for name, map_ in self._asdict().items() if map_ is not None
        )
        return f"ScoreMaps({', '.join(sizes)})"


class Prediction(NamedTuple):
    """Results for N frames, at the size of the frames."""

    probability: np.ndarray  # float32 [N, H, W], 0..1
    mask: np.ndarray  # bool [N, H, W], probability > threshold
    detections: list[list[Detection]]  # by frame

    def __repr__(self) -> str:
        frames, height, width = self.mask.shape
        detections = counted(sum(map(len, self.detections)), "detection")
        return f"Prediction({counted(frames, 'frame')} of {height} x {width} px, {detections})"


class FrameResult(NamedTuple):
    """Result for a frame of a stream."""

    frame: np.ndarray  # the grey frame itself, float32 [H, W] in 0..1
    probability: np.ndarray  # float32 [H, W]
    mask: np.ndarray  # bool [H, W]
    detections: list[Detection]

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"FrameResult({height} x {width} px, {counted(len(self.detections), 'detection')})"
