"""What the tests of both networks share: deterministic weights, and a comparison with the plain form."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn


def fill_deterministically(module: nn.Module, seed: int = 0) -> None:
    """Draw every floating-point weight from its name and `seed`, at scales that keep activations of order 1."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point() or name.endswith("relative_coords_table"):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "running_var":
            drawn = 0.5 + noise.abs()
        elif leaf == "logit_scale":
            drawn = 2.3 + 0.1 * noise
        elif value.dim() == 1:
            drawn = 0.1 * noise + (leaf == "weight")
        else:
            drawn = noise / value[0].numel() ** 0.5
        value.copy_(drawn)


@contextmanager
def undrawn_weights() -> Iterator[None]:
    """Let networks be built without random numbers, which take seconds, where all weights are filled in afterwards."""

    def keep(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor.zero_()

    with patch.object(Tensor, "normal_", keep), patch.object(Tensor, "uniform_", keep):
        yield


def outputs_and_gradients(network: nn.Module, x: Tensor, forward, train: bool, seed: int = 3):
    """Outputs, the gradient at `x`, and all parameters' gradients of a fixed weighted sum of the outputs."""
    network.train(train)
    network.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)  # stochastic depth draws the same in both forms
    outputs = forward(network, x)
    weights = [torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out) for out in outputs]
    sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True)).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return [out.detach() for out in outputs], x.grad, gradients


def assert_same(
    fast: nn.Module, plain: nn.Module, x: Tensor, forward_fast, forward_plain, train: bool, tolerance: float
):
    """Forward pass and every gradient of both forms agree, relative to the largest value of each tensor."""
    ours = outputs_and_gradients(fast, x, forward_fast, train)
    theirs = outputs_and_gradients(plain, x, forward_plain, train)
    for mine, reference in zip(ours[0], theirs[0], strict=True):
        assert (mine - reference).abs().max() <= tolerance * reference.abs().max()
    assert (ours[1] - theirs[1]).abs().max() <= tolerance * theirs[1].abs().max()
    reference = fast.from_published(theirs[2])
    assert reference.keys() == ours[2].keys()
    typical = sorted(gradient.abs().max().item() for gradient in reference.values())[len(reference) // 2]
    for name, gradient in reference.items():
        # a bias before a batch normalisation has a gradient of rounding noise, so typical sizes bound from below
        bound = tolerance * max(gradient.abs().max().item(), typical)
        assert ours[2][name] is not None, f"{name} has no gradient"
        assert (ours[2][name] - gradient).abs().max() <= bound, name
