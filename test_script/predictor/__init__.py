"""`Predictor`: frames in, probability maps, masks and detections out."""

from test_script.predictor.predictor import PUBLISHED_SCALES, FrameResult, Prediction, Predictor, ScoreMaps

__all__ = ["PUBLISHED_SCALES", "FrameResult", "Prediction", "Predictor", "ScoreMaps"]
