"""Losses against values computed by hand."""

import math

import pytest
import torch

from istd.train_script.losses import (
    LOSSES,
    LossProgress,
    bce_soft_iou_loss,
    check_loss_options,
    dice_loss,
    focal_dice_loss,
    focal_loss,
    focal_tversky_loss,
    named_outputs,
    sls_of_map,
    soft_iou_loss,
    total_loss,
)
from istd.utils.errors import InputError


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# two samples of 1 x 2 pixels
LOGITS = torch.tensor([[logit(0.8), logit(0.4)], [logit(0.5), logit(0.1)]]).view(2, 1, 1, 2)
MASK = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)
BATCH = {"mask": MASK}


def sls_after(logits, mask):
    """The SLS loss after its warm-up."""
    return sls_of_map(logits, mask, warm=False)


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
    progress = LossProgress(aux_weight=0.5)
    assert total_loss("soft_iou", [LOGITS, other, 2 * other], BATCH, progress).item() == pytest.approx(expected.item())
    progress = LossProgress(weights={"main": 0.25, "aux2": 2.0})  # aux1 does not count
    expected = 0.25 * soft_iou_loss(LOGITS, MASK) + 2 * soft_iou_loss(2 * other, MASK)
    assert total_loss("soft_iou", [LOGITS, other, 2 * other], BATCH, progress).item() == pytest.approx(expected.item())
    with pytest.raises(InputError, match="none of the outputs main has a weight"):
        total_loss("soft_iou", LOGITS, BATCH, LossProgress(weights={"main": 0}))
    with pytest.raises(InputError, match="output_weights names aux9, but the network's outputs are main, aux1"):
        total_loss("soft_iou", [LOGITS, other], BATCH, LossProgress(weights={"aux9": 0.5, "aux8": 0.0}))


def test_parts_of_a_step_add_up_to_its_batch():
    whole = total_loss("focal_dice", LOGITS, BATCH, LossProgress())
    parts = sum(
        total_loss("focal_dice", LOGITS[i : i + 1], {"mask": MASK[i : i + 1]}, LossProgress(), accumulation_steps=2)
        for i in range(2)
    )
    assert parts.item() == pytest.approx(whole.item())
    mean = sum(total_loss("bce_soft_iou", LOGITS, BATCH, LossProgress(), accumulation_steps=2) for _ in range(2))
    assert mean.item() == pytest.approx(bce_soft_iou_loss(LOGITS, MASK).item())


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_measured_in_float32_and_extremes_are_finite(name):
    logits = torch.tensor([[90.0, -90.0]]).view(1, 1, 1, 2).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask = torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2)
        loss = total_loss(name, logits, {"mask": mask}, LossProgress(epoch=9))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss", [soft_iou_loss, focal_loss, dice_loss, bce_soft_iou_loss, focal_tversky_loss, sls_after]
)
def test_gradients_are_those_of_the_values(loss):
    assert torch.autograd.gradcheck(lambda logits: loss(logits, MASK.double()), LOGITS.double().requires_grad_())


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (2, 1, 2, 4)])
def test_logits_that_would_be_broadcast_over_the_mask_are_refused(shape):
    with pytest.raises(InputError, match=r"shape \(2, ., ., 4\), expected \(2, 1, 4, 4\)"):
        total_loss("soft_iou", torch.zeros(shape), {"mask": torch.zeros(2, 1, 4, 4)}, LossProgress())


def test_focal_tversky_by_hand():
    # TP = 1.3, FN = 0.7, FP = 0.5
    index = (1.3 + 1) / (1.3 + 0.7 * 0.7 + 0.3 * 0.5 + 1)
    assert focal_tversky_loss(LOGITS, MASK).item() == pytest.approx((1 - index) ** 0.75)
    index = (1.3 + 1) / (1.3 + 0.5 * 0.7 + 0.5 * 0.5 + 1)
    options = check_loss_options("focal_tversky", {"alpha": "0.5", "beta": 0.5, "gamma": "1"})
    assert total_loss("focal_tversky", LOGITS, BATCH, LossProgress(), options).item() == pytest.approx(1 - index)


def sls_by_hand(p, g):
    """The loss of one sample after the warm-up, from lists of rows, written out."""
    pixels = [(y, x) for y in range(len(p)) for x in range(len(p[0]))]
    areas = [sum(m[y][x] for y, x in pixels) for m in (p, g)]
    intersection = sum(p[y][x] * g[y][x] for y, x in pixels)
    iou = intersection / (sum(areas) - intersection)
    variance = sum((area - sum(areas) / 2) ** 2 for area in areas) / 2
    weight = (min(areas) + variance) / (max(areas) + variance)
    centres = [
        (sum(x * m[y][x] for y, x in pixels) / area, sum(y * m[y][x] for y, x in pixels) / area)
        for m, area in zip((p, g), areas, strict=True)
    ]
    distances = [math.hypot(*centre) for centre in centres]
    angles = [math.atan2(y, x) for x, y in centres]
    location = 1 - min(distances) / max(distances) + 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return 1 - weight * iou + location, 1 - iou


def test_sls_by_hand_with_its_warm_up():
    found = [[0.1, 0.2, 0.4], [0.1, 0.7, 0.9]]
    target = [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    other = [[0.1, 0.1, 0.1], [0.5, 0.6, 0.1]]
    other_target = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    logits = torch.tensor([[[logit(p) for p in row] for row in rows] for rows in (found, other)])[:, None]
    batch = {"mask": torch.tensor([target, other_target])[:, None]}
    (first, first_warm), (second, second_warm) = sls_by_hand(found, target), sls_by_hand(other, other_target)
    for epoch, options, expected in (
        (0, {}, (first_warm + second_warm) / 2),
        (4, {}, (first_warm + second_warm) / 2),
        (5, {}, (first + second) / 2),
        (1, {"warm_epochs": 1}, (first + second) / 2),
    ):
        loss = total_loss("sls", logits, batch, LossProgress(epoch=epoch), options)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([(0, 4)], 0.0),  # the target
        ([(0, 2)], 1 + 1 - 2 / 4),  # no overlap, half as far from the corner
        ([(4, 0)], 1 + 1),  # no overlap, as far away, at a right angle
        ([(0, 3), (0, 4), (0, 5)], 1 - 1 / 3 * (1 + 1) / (3 + 1)),  # IoU 1/3, areas 3 and 1 of variance 1
    ],
)
def test_sls_of_certain_pixels(pixels, expected):
    """Pixels are (row, column); the target is at (0, 4), so that its angle is 0 and its distance 4."""
    logits, mask = torch.full((1, 1, 6, 6), -80.0, dtype=torch.float64), torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    mask[0, 0, 0, 4] = 1
    for row, column in pixels:
        logits[0, 0, row, column] = 80.0
    assert sls_after(logits, mask).item() == pytest.approx(expected, abs=1e-5)


def test_sls_of_a_sample_without_a_target_is_finite():
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    loss = total_loss("sls", logits, {"mask": torch.zeros(2, 1, 4, 4)}, LossProgress(epoch=9))
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-4) and logits.grad.isfinite().all()


def test_options_of_losses_are_checked():
    assert check_loss_options("sls", {"warm_epochs": "3"}) == {"warm_epochs": 3}
    with pytest.raises(InputError, match="loss sls has no option 'warm_epoch'; did you mean warm_epochs"):
        check_loss_options("sls", {"warm_epoch": 3})
    with pytest.raises(InputError, match="loss soft_iou has no option 'alpha'; its options: none"):
        check_loss_options("soft_iou", {"alpha": 3})
    with pytest.raises(InputError, match="option warm_epochs of loss sls is 'x', expected integer"):
        check_loss_options("sls", {"warm_epochs": "x"})


def test_outputs_have_names():
    a, b = torch.zeros(1), torch.ones(1)
    assert named_outputs(a) == {"main": a}
    assert named_outputs([a, b]) == {"main": a, "aux1": b}
    assert named_outputs({"edges": b, "main": a}) == {"edges": b, "main": a}
    with pytest.raises(InputError, match="the network's outputs are edges, expected an output 'main'"):
        named_outputs({"edges": b})
