"""`Predictor`: frames in, probability maps, masks and detections out, for scripts and notebooks.

>>> from istd.test_script.predictor import Predictor
>>> predictor = Predictor.from_checkpoint("weights/datransnet_nudt-sirst.pth")  # device="cuda" for a GPU
>>> result = predictor(frames)  # numpy [N, H, W] or [N, H, W, 3]: uint8, uint16 or float in 0..1
>>> result.probability.shape == result.mask.shape == frames.shape
True
>>> [len(detections) for detections in result.detections]  # of each frame, with x, y, a box, area, mean and peak score
[1, 1, 1]

The network alone, for other uses, comes from `models`:

>>> from istd.models import load_model
>>> network = load_model("weights/datransnet_nudt-sirst.pth")  # clip [B, T, C, H, W] -> logits [B, 1, H, W]
"""

from istd.test_script.predictor.predictor import PUBLISHED_SCALES, FrameResult, Prediction, Predictor, ScoreMaps

__all__ = ["PUBLISHED_SCALES", "FrameResult", "Prediction", "Predictor", "ScoreMaps"]
