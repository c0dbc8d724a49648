"""What cannot be measured is refused in one sentence."""

import numpy as np
import pytest
import torch

from istd.utils.errors import InputError
from istd.utils.metrics import build_metric
from istd.utils.metrics.curves import CurveAccumulator


@pytest.mark.parametrize(
    ("score", "mask", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4)), r"a/7: the score map is 4 x 5 and the mask 5 x 4; resize"),
        (np.full((4, 4), 1.5), np.zeros((4, 4)), r"a/7: scores run from 1.5 to 1.5, expected probabilities in 0..1"),
        (np.full((4, 4), -0.1), np.zeros((4, 4)), r"scores run from -0.1"),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), r"a/7: the score map holds NaN"),
        (np.zeros((1, 3, 4, 4)), np.zeros((1, 3, 4, 4)), r"1 x 3 x 4 x 4; expected \[H, W\] or a batch"),
        (np.zeros(4), np.zeros(4), r"the score map is 4; expected \[H, W\]"),
        (np.zeros((0, 4)), np.zeros((0, 4)), r"0 x 4; expected"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), r"1 name for 2 images"),
    ],
)
@pytest.mark.parametrize("build", [lambda: build_metric("standard"), CurveAccumulator])
def test_refused(build, score, mask, message):
    accumulator = build()
    with pytest.raises(InputError, match=message):
        accumulator.update(score, mask, sequence="a", frame="7")


def test_probabilities_may_round_to_above_1():
    """A target of two pixels; the map that a resize took one rounding above 1 has the same AP and IoU."""
    mask = np.array([[True, True, False, False]])
    score = np.float32([[1, 0.75, 0.25, 0]]) * np.float32(1.0000001)
    metric, curves = build_metric("datransnet"), CurveAccumulator()
    for accumulator in (metric, curves):
        accumulator.update(score, mask)
    assert score.max() > 1 and (metric.compute()["iou"], curves.compute().ap) == (1, 1)


def test_a_refused_batch_leaves_no_trace():
    metric = build_metric("standard")
    with pytest.raises(InputError):
        metric.update(np.stack([np.zeros((4, 4)), np.full((4, 4), 2.0)]), np.zeros((2, 4, 4)))
    assert metric.rows == []


def test_different_protocols_do_not_merge():
    with pytest.raises(InputError, match="protocols standard and dtum cannot be merged"):
        build_metric("standard").merge(build_metric("dtum"))
