"""Batch-norm statistics estimated on images, against a plain computation; and a run that validates with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from istd.train_script import validation
from istd.train_script.norm_statistics import estimate_statistics, kept_statistics
from istd.train_script.optim import freeze
from istd.train_script.train import main
from istd.train_script.weight_average import WeightAverage
from istd.utils.checkpoint import read_checkpoint
from istd.utils.errors import InputError
from tests.train.test_train import arguments, dataset, folder_of, rows  # noqa: F401


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(3, 2, 1),
        nn.BatchNorm2d(2, momentum=None),
    ).double()


def plain_statistics(network, batches):
    """(mean, variance) of the inputs of both norms, written out: each batch is normalised by itself."""
    sums, count = {1: [0, 0], 5: [0, 0]}, 0
    for batch in batches:
        x = F.conv2d(batch, network[0].weight, network[0].bias)
        for place in (1, 5):
            pixels = x.transpose(0, 1).flatten(1)
            mean, variance = pixels.mean(1), pixels.var(1)
            sums[place][0] = sums[place][0] + len(batch) * mean
            sums[place][1] = sums[place][1] + len(batch) * (variance + mean**2)
            biased = pixels.var(1, correction=0)
            x = (x - mean.view(-1, 1, 1)) / (biased.view(-1, 1, 1) + 1e-5).sqrt()
            x = F.conv2d(x.relu(), network[4].weight, network[4].bias) if place == 1 else x
        count += len(batch)
    return {place: (mean / count, square / count - (mean / count) ** 2) for place, (mean, square) in sums.items()}


def test_statistics_are_those_of_a_plain_computation():
    network = small_network().train()
    network[1](torch.randn(4, 3, 5, 5, dtype=torch.float64))  # other statistics than at first
    batches = [torch.randn(3, 1, 8, 8, dtype=torch.float64), 2 + torch.randn(1, 1, 6, 12, dtype=torch.float64)]
    expected = plain_statistics(network, batches)
    momenta = [network[1].momentum, network[5].momentum]
    with kept_statistics(network):
        estimate_statistics(network, batches)
        for place, (mean, variance) in expected.items():
            torch.testing.assert_close(network[place].running_mean, mean)
            torch.testing.assert_close(network[place].running_var, variance)
        assert all(module.training for module in network.modules())
        assert [network[1].momentum, network[5].momentum] == momenta
    assert not torch.allclose(network[1].running_mean, expected[1][0], atol=1e-3)


def test_frozen_norms_keep_their_statistics():
    network = small_network()
    network[1](2 + torch.randn(4, 3, 5, 5, dtype=torch.float64))  # other statistics than at first
    freeze(network, ["1"])
    copy = WeightAverage(network, decay=0.5).module
    batch = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    estimate_statistics(copy, [batch])
    assert torch.equal(copy[1].running_mean, network[1].running_mean)
    assert torch.equal(copy[1].running_var, network[1].running_var)
    with torch.no_grad():  # which the frozen norm uses for the layers behind it
        seen = network[:5].eval()(batch)
    torch.testing.assert_close(copy[5].running_mean, seen.mean((0, 2, 3)))


def test_training_goes_on_unchanged_and_the_kept_weights_have_them(dataset, tmp_path, monkeypatch):  # noqa: F811
    assert main(arguments(dataset, tmp_path, "plain")) == 0
    seen, estimate = [], validation.estimate_statistics
    monkeypatch.setattr(
        validation, "estimate_statistics", lambda net, batches: estimate(net, seen.append(list(batches)) or seen[-1])
    )
    assert main(arguments(dataset, tmp_path, "estimated", recalibrate_norm=6)) == 0
    plain, estimated = (folder_of(tmp_path, name) for name in ("plain", "estimated"))
    for name, same in (("checkpoint_last.pth", True), ("checkpoint_best.pth", False)):
        left, right = (read_checkpoint(folder / name).weights for folder in (plain, estimated))
        equal = all(torch.equal(left[key], right[key]) for key in left if key.endswith("running_mean"))
        assert equal == same
    assert [row["loss"] for row in rows(plain)] == [row["loss"] for row in rows(estimated)]
    assert [[list(batch.shape) for batch in batches] for batches in seen] == [
        [[4, 1, 1, 32, 64], [2, 1, 1, 32, 64]]
    ] * 2, "whole images of the training part, at each of two validations"


def test_a_network_without_batch_norms_is_refused(dataset, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("istd.train_script.data.norm_layers", lambda network: [])
    with pytest.raises(InputError, match="datransnet has no batch norms"):
        main(arguments(dataset, tmp_path, recalibrate_norm=6))
