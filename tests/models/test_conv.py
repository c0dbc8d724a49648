"""A convolution and its batch norm against the plain layers."""

import pytest
import torch
from torch import nn

from istd.models.ops.conv import conv_norm


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_equal_those_of_the_plain_layers(bias, training):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4)).double()
    for tensor in (layers[1].weight, layers[1].bias, layers[1].running_mean):
        nn.init.normal_(tensor)
    layers[1].running_var.uniform_(0.5, 2)
    layers.train(training)
    buffers = [buffer.clone() for buffer in layers.buffers()]
    results = []
    for form in (lambda x: conv_norm(x, *layers), layers):
        for buffer, before in zip(layers.buffers(), buffers, strict=True):
            buffer.data.copy_(before)
        x = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = form(x)
        gradients = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), [x, *layers.parameters()])
        results.append([out, *gradients, *(buffer.clone() for buffer in layers.buffers())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
