"""Losses against values computed by hand."""

import math

import pytest
import torch

from istd.train_script.losses import (
    bce_soft_iou_loss,
    dice_loss,
    focal_dice_loss,
    focal_loss,
    soft_iou_loss,
    total_loss,
)
from istd.utils.errors import InputError


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# two samples of 1 x 2 pixels
LOGITS = torch.tensor([[logit(0.8), logit(0.4)], [logit(0.5), logit(0.1)]]).view(2, 1, 1, 2)
MASK = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)


def test_soft_iou_sums_over_the_whole_batch():
    # I = 0.8 + 0.5 = 1.3; sum p = 1.8; sum g = 2
    assert soft_iou_loss(LOGITS, MASK).item() == pytest.approx(1 - (1.3 + 1) / (1.8 + 2 - 1.3 + 1))


def test_soft_iou_of_nothing_found_where_nothing_is_is_zero():
    assert soft_iou_loss(torch.full((1, 1, 4, 4), -40.0), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(0, abs=1e-6)


def test_focal_is_a_mean_over_pixels_summed_over_samples():
    first = (0.25 * 0.2**2 * -math.log(0.8) + 0.75 * 0.4**2 * -math.log(0.6)) / 2
    second = (0.25 * 0.5**2 * -math.log(0.5) + 0.75 * 0.1**2 * -math.log(0.9)) / 2
    assert focal_loss(LOGITS, MASK).item() == pytest.approx(first + second)


def test_dice_is_per_sample_and_summed():
    first = 1 - (2 * 0.8 + 1) / (1.2 + 1 + 1)
    second = 1 - (2 * 0.5 + 1) / (0.6 + 1 + 1)
    assert dice_loss(LOGITS, MASK).item() == pytest.approx(first + second)
    assert focal_dice_loss(LOGITS, MASK).item() == pytest.approx(first + second + focal_loss(LOGITS, MASK).item())


def test_cross_entropy_is_a_mean_over_the_batch():
    cross_entropy = -(math.log(0.8) + math.log(0.6) + math.log(0.5) + math.log(0.9)) / 4
    expected = cross_entropy + soft_iou_loss(LOGITS, MASK).item()
    assert bce_soft_iou_loss(LOGITS, MASK).item() == pytest.approx(expected)


def test_auxiliary_outputs_count_with_their_weight():
    other = -LOGITS
    expected = soft_iou_loss(LOGITS, MASK) + 0.5 * (soft_iou_loss(other, MASK) + soft_iou_loss(2 * other, MASK))
    assert total_loss("soft_iou", [LOGITS, other, 2 * other], MASK, 0.5).item() == pytest.approx(expected.item())


def test_parts_of_a_step_add_up_to_its_batch():
    whole = total_loss("focal_dice", [LOGITS], MASK, 0.0)
    parts = sum(
        total_loss("focal_dice", [LOGITS[i : i + 1]], MASK[i : i + 1], 0.0, accumulation_steps=2) for i in range(2)
    )
    assert parts.item() == pytest.approx(whole.item())
    mean = sum(total_loss("bce_soft_iou", [LOGITS], MASK, 0.0, accumulation_steps=2) for _ in range(2))
    assert mean.item() == pytest.approx(bce_soft_iou_loss(LOGITS, MASK).item())


@pytest.mark.parametrize("name", ["soft_iou", "focal_dice", "bce_soft_iou"])
def test_half_precision_logits_are_measured_in_float32_and_extremes_are_finite(name):
    logits = torch.tensor([[90.0, -90.0]]).view(1, 1, 1, 2).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total_loss(name, [logits], torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2), 0.0)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [soft_iou_loss, focal_loss, dice_loss, bce_soft_iou_loss])
def test_gradients_are_those_of_the_values(loss):
    assert torch.autograd.gradcheck(lambda logits: loss(logits, MASK.double()), LOGITS.double().requires_grad_())


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (2, 1, 2, 4)])
def test_logits_that_would_be_broadcast_over_the_mask_are_refused(shape):
    with pytest.raises(InputError, match=r"shape \(2, ., ., 4\), expected \(2, 1, 4, 4\)"):
        total_loss("soft_iou", [torch.zeros(shape)], torch.zeros(2, 1, 4, 4), aux_weight=0.0)
