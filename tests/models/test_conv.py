"""The convolutions of the networks against `nn.Conv2d` and `nn.BatchNorm2d`."""

import copy

import pytest
import torch
from torch import nn

from istd.models.ops import conv as ops_conv


@pytest.mark.parametrize(("outputs", "inputs", "bias"), [(64, 80, True), (80, 64, False), (64, 32, True)])
def test_gradients_of_training_equal_those_of_the_plain_layers(outputs, inputs, bias, monkeypatch):
    monkeypatch.setattr(ops_conv, "BAND_PIXELS", 37)  # of 2 * 9 * 11, with the borders
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs)).double()
    fast = copy.deepcopy(plain)
    x = torch.randn(2, inputs, 7, 9, dtype=torch.float64).to(memory_format=torch.channels_last)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ops_conv.conv_norm(mine, *fast), plain(theirs)
    torch.testing.assert_close(out, expected)
    towards = torch.randn_like(expected)
    (out * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    for parameter, reference in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("bias", [False, True])
def test_a_pointwise_convolution_of_few_channels_has_the_statistics_of_the_plain_layers(bias, monkeypatch):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1, bias=bias), nn.BatchNorm2d(8)).double()
    fast, x = copy.deepcopy(plain), torch.randn(2, 3, 5, 7, dtype=torch.float64) + 3
    monkeypatch.setattr(ops_conv, "_convolve", None)  # not used
    for _ in range(2):
        results = []
        for layers, form in ((fast, ops_conv.conv_norm), (plain, lambda x, conv, norm: norm(conv(x)))):
            given = x.clone().requires_grad_()
            layers.zero_grad()
            out = form(given, *layers)
            (out * torch.arange(out.numel()).view_as(out)).sum().backward()
            gradients = [parameter.grad for parameter in layers.parameters()]
            results.append([out, given.grad, *gradients, *(buffer.clone() for buffer in layers.buffers())])
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def test_the_statistics_of_many_pixels_are_exact_in_float32():
    """Within some units in the last place, as of the plain layers; sums of one pixel after the other miss by 1e-4."""
    torch.manual_seed(0)
    fast, x = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)), torch.randn(2, 3, 320, 320) + 3
    exact = copy.deepcopy(fast).double()
    torch.testing.assert_close(ops_conv.conv_norm(x, *fast), exact(x.double()).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(fast[1].running_var, exact[1].running_var.float(), rtol=1e-6, atol=0)


def test_a_single_value_is_refused_as_by_the_plain_layers():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ops_conv.conv_norm(torch.rand(1, 3, 1, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_frozen_weights_get_no_gradient():
    layers = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64))
    layers[0].requires_grad_(False)
    x = torch.randn(1, 64, 4, 4, requires_grad=True)
    ops_conv.conv_norm(x, *layers).square().sum().backward()
    assert layers[0].weight.grad is None and layers[0].bias.grad is None and x.grad.abs().sum() > 0
