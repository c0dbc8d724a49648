"""Parameter groups, schedules (against torch's own) and EMA weights."""

import pytest
import torch
from torch import nn

from istd.train_script.optim import build_optimizer, build_schedule, freeze, set_learning_rates, train_mode
from istd.train_script.settings import merge_settings
from istd.train_script.weight_average import WeightAverage
from istd.utils.errors import InputError


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.fusion, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2)

    def backbone_parameters(self):
        return list(self.encoder.parameters())


def rates(optimizer, scheduler, steps, every):
    """Learning rates of `steps` steps under a torch scheduler that is stepped every `every` of them."""
    result = []
    for step in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return result


def ours(options, steps, steps_per_epoch, base):
    schedule = build_schedule(merge_settings(None, {"schedule": "constant"} | options), steps_per_epoch)
    return [schedule(base, step) for step in range(steps)]


def sgd(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_groups_train_at_their_rates():
    settings = merge_settings(None, {"lr": 1e-4, "lr_backbone": 1e-5, "optimizer": "adamw", "weight_decay": 3e-4})
    model = TwoParts()
    optimizer = build_optimizer(model, settings)
    assert type(optimizer) is torch.optim.AdamW
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {"main": 1e-4, "backbone": 1e-5}
    assert all(group["weight_decay"] == 3e-4 for group in groups.values())
    assert groups["backbone"]["params"] == list(model.encoder.parameters())
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))


def test_no_empty_group_without_a_backbone():
    model = TwoParts()
    model.backbone_parameters = list
    optimizer = build_optimizer(model, merge_settings(None, {"optimizer": "adam"}))
    assert type(optimizer) is torch.optim.Adam
    assert [group["name"] for group in optimizer.param_groups] == ["main"]


def test_multi_step_equals_torch():
    optimizer = sgd(5e-4)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], 0.1)
    expected = rates(optimizer, reference, 15, 3)
    options = {"schedule": "multi_step", "milestones": [2, 3]}
    assert ours(options, 15, 3, 5e-4) == pytest.approx(expected)


def test_cosine_with_restarts_equals_torch():
    optimizer = sgd(1e-4)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, eta_min=1e-7)
    expected = rates(optimizer, reference, 50, 2)
    assert ours({"schedule": "cosine_restarts"}, 50, 2, 1e-4) == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(20, 5), (10, 1), (3, 7)])
def test_one_cycle_equals_torch(epochs, steps_per_epoch):
    optimizer = sgd(2e-3)
    steps = epochs * steps_per_epoch
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, cycle_momentum=False)
    expected = rates(optimizer, reference, steps - 1, 1)
    assert ours({"schedule": "one_cycle", "epochs": epochs}, steps - 1, steps_per_epoch, 2e-3) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_of_very_few_steps_is_finite(steps):
    for rate in ours({"schedule": "one_cycle", "epochs": steps}, steps, 1, 1.0):
        assert 0 < rate <= 1


def test_set_learning_rates_starts_from_each_groups_own():
    optimizer = build_optimizer(TwoParts(), merge_settings(None, {"lr": 0.4, "lr_backbone": 0.2}))
    for step in (1, 1, 0):  # set, not multiplied again
        set_learning_rates(optimizer, lambda base, step: base / (step + 1), step)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.2]
    set_learning_rates(optimizer, lambda base, step: base / (step + 1), 1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


def test_ema_follows_the_weights_by_hand():
    model = nn.BatchNorm1d(1)
    ema = WeightAverage(model, decay=0.15)
    model.weight.data.fill_(3.0)
    model.running_mean.fill_(2.0)
    model.num_batches_tracked.fill_(7)
    ema.update(0)  # decay 1/10: 0.1 * 1 + 0.9 * 3
    assert ema.module.weight.item() == pytest.approx(2.8)
    assert ema.module.running_mean.item() == pytest.approx(1.8)
    assert ema.module.num_batches_tracked.item() == 7
    ema.update(1)  # min(0.15, 2/11) = 0.15
    assert ema.module.weight.item() == pytest.approx(0.15 * 2.8 + 0.85 * 3)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_the_ema_warms_up_as_it_did_before_timm_computed_it(monkeypatch):
    ema, decays = WeightAverage(nn.Linear(1, 1), decay=0.999), []
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda averaged, current, weight: decays.append(1 - weight))
    for updates in range(20_000):
        ema.update(updates)
    assert decays == pytest.approx([min(0.999, (1 + n) / (10 + n)) for n in range(20_000)], rel=1e-12)


def test_the_average_stays_in_a_step_that_is_skipped():
    model = nn.Linear(1, 1)
    taken, skipped = (WeightAverage(model, decay=0.5) for _ in range(2))
    model.weight.data.fill_(3.0)
    before = skipped.module.weight.item()
    skipped.update(8, torch.tensor(False))
    taken.update(8, torch.tensor(True))  # decay 0.5
    assert skipped.module.weight.item() == before
    assert taken.module.weight.item() == pytest.approx((before + 3) / 2)


def group_names(model, **options):
    """Name of each group -> names of its parameters, and its other values."""
    optimizer = build_optimizer(model, merge_settings(None, options))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: ([names[id(value)] for value in group["params"]], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    }


def test_norms_and_biases_go_without_decay_if_asked():
    options = {"decay_norms": False, "weight_decay": 0.5, "lr": 0.1, "lr_backbone": 0.2}
    assert group_names(TwoParts(), **options) == {
        "main": (["fusion.weight"], 0.1, 0.5),
        "main without decay": (["fusion.bias", "norm.weight", "norm.bias"], 0.1, 0.0),
        "backbone": (["encoder.weight"], 0.2, 0.5),
        "backbone without decay": (["encoder.bias"], 0.2, 0.0),
    }


def test_rates_are_scaled_by_patterns_of_which_the_first_counts():
    options = {"lr_scales": {"fusion.w": "0.5", "fus|encoder": 0.1}, "lr": 1.0, "lr_backbone": 2.0, "weight_decay": 0}
    assert group_names(TwoParts(), **options) == {
        "main x 0.5": (["fusion.weight"], 0.5, 0),
        "main x 0.1": (["fusion.bias"], 0.1, 0),
        "main": (["norm.weight", "norm.bias"], 1.0, 0),
        "backbone x 0.1": (["encoder.weight", "encoder.bias"], 0.2, 0),
    }
    with pytest.raises(
        InputError, match=r"lr_scales has 'weight', which no parameter's name matches.*encoder, fusion, norm"
    ):
        group_names(TwoParts(), lr_scales={"weight": 1})
    with pytest.raises(InputError, match="no regular expression"):
        group_names(TwoParts(), lr_scales={"(": 1})


def test_frozen_parts_keep_weights_and_statistics():
    model = TwoParts()
    freeze(model, ["enc", "norm"])
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["fusion.weight", "fusion.bias"]
    assert group_names(model).keys() == {"main"}
    train_mode(model)
    assert model.training and model.fusion.training and not model.norm.training
    with pytest.raises(InputError, match="nothing is left to train"):
        freeze(model, ["."])


def test_norms_without_parameters_and_layers_that_the_network_froze_stay_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[2].requires_grad_(False)
    for patterns, training in (([], [True, True, False, True]), (["0", "1|3.weight"], [True, False, False, True])):
        freeze(model, patterns)
        train_mode(model)
        assert [layer.training for layer in model] == training
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["3.bias"]


def test_the_rate_warms_up_evenly():
    assert ours({"warmup_steps": 4}, 6, 2, 0.8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    options = {"schedule": "one_cycle", "epochs": 3}
    plain, warmed = ours(options, 30, 10, 1.0), ours(options | {"warmup_steps": 2}, 30, 10, 1.0)
    assert warmed == [plain[0] / 2, *plain[1:]]
