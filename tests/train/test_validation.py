"""What validation reports beside the metrics: the loss of whole frames, and the curves of several datasets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from istd.train_script import validation
from istd.train_script.losses import LOSSES, MAIN, Loss, LossProgress, focal_dice_loss, soft_iou_loss
from istd.train_script.map_loss import MapLoss
from istd.train_script.tensorboard import HPARAMS_METRICS, PR_BINS, PixelHistogram
from istd.utils.metrics.accumulator import METRICS

LOGITS = [np.array([[0.0, np.log(3)]], np.float32), np.array([[-2.0, 1.0], [0.5, 3.0]], np.float32)]
MASKS = [np.array([[False, True]]), np.array([[False, True], [True, False]])]


def measure(name, batch_size=4):
    """The loss of two frames, measured by two processes."""
    shares = [MapLoss(name, {}, LossProgress(), batch_size) for _ in range(2)]
    for share, logits, mask in zip(shares, LOGITS, MASKS, strict=True):
        share.update(logits, mask)
    shares[0].merge(shares[1])
    return shares[0].compute()


def test_the_loss_of_validation_is_the_mean_over_frames():
    first = 1 - (0.75 + 1) / (0.5 + 0.75 + 1 - 0.75 + 1)  # probabilities 0.5 and 0.75
    logits, mask = (torch.from_numpy(array).float()[None, None] for array in (LOGITS[1], MASKS[1]))
    assert measure("soft_iou") == pytest.approx((first + float(soft_iou_loss(logits, mask))) / 2)
    sums = [
        float(focal_dice_loss(*(torch.from_numpy(array).float()[None, None] for array in frame)))
        for frame in zip(LOGITS, MASKS, strict=True)
    ]
    assert measure("focal_dice", batch_size=8) == pytest.approx(8 * sum(sums) / 2), "a sum over a batch, as in training"


def test_a_loss_that_needs_more_than_a_map_and_its_mask_has_no_value(monkeypatch):
    heads = Loss(lambda outputs, *_: sum(map(torch.sum, outputs.values())), all_outputs=True)
    monkeypatch.setitem(LOSSES, "heads", heads)
    monkeypatch.setitem(LOSSES, "clips", Loss(lambda outputs, batch, progress: batch["clip"].mean()))
    monkeypatch.setitem(LOSSES, "broken", Loss(lambda outputs, *_: outputs[MAIN].mean() * float("nan")))
    assert measure("heads") is None and measure("clips") is None and measure("broken") is None
    assert MapLoss("soft_iou", {}, LossProgress(), 4).compute() is None


def test_pixels_are_counted_by_their_logits():
    limits = np.sinh(np.linspace(-5, 5, PR_BINS - 1))
    logits = np.array([[-1e9, -1e-9, 1e-9, 1.0], [2.0, 70.0, 80.0, 1e9]])
    mask = np.array([[False, True, False, True], [True, True, False, True]])
    shares = [PixelHistogram(), PixelHistogram()]
    for share, row, truth in zip(shares, logits, mask, strict=True):
        share.update(row[None], truth[None])
    shares[0].merge(shares[1])
    for row, pixels in enumerate((logits[~mask], logits[mask])):
        assert shares[0].counts[row].tolist() == np.bincount(limits.searchsorted(pixels), minlength=PR_BINS).tolist()


def test_several_datasets_have_curves_of_their_mean(monkeypatch):
    """The tab HParams reads these tags, whatever the datasets are called."""
    points = {}
    writer = SimpleNamespace(add_scalar=lambda tag, value, step: points.update({tag: value}), flush=lambda: None)
    values = {"a": 0.25, "b": 0.75}

    def evaluate(run, training, loader, tag, step, amp):
        value = values[loader.dataset.dataset_name]
        return dict.fromkeys(METRICS, value) | {"video_mean": None, "f1": float("nan")}, value

    monkeypatch.setattr(validation, "evaluate", evaluate)
    sets = [SimpleNamespace(dataset=SimpleNamespace(dataset_name=name)) for name in values]
    result = validation.evaluate_sets(SimpleNamespace(writer=writer), None, sets, "val", 7, "none")
    assert (result.metrics["iou"], result.loss, result.by_dataset["b"]["iou"]) == (0.5, 0.5, 0.75)
    assert {tag: points[tag] for tag in ("val/iou", "val/loss", "val/a/iou", "val/b/loss")} == {
        "val/iou": 0.5, "val/loss": 0.5, "val/a/iou": 0.25, "val/b/loss": 0.75,
    }  # fmt: skip
    assert {tag for tag in HPARAMS_METRICS if tag.startswith("val/")} <= points.keys()
    assert "val/f1" not in points and "val/a/video_mean" not in points
