"""SGMP-UNet equals the published network: its recorded answers, and the plain form at other sizes."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from istd.models import build_model
from istd.models.model_card import model_card
from istd.models.ops import window_attention
from istd.models.ops.mlp import chunked_mlp
from istd.models.ops.window_attention import FastWindowAttention3d, FastWindowAttentionV2
from istd.utils.errors import InputError
from tests.reference.network_cases import assert_same, fill_deterministically, undrawn_weights
from tests.reference.plain_sgmp_unet import PlainSGMPUNet

RECORDED = Path(__file__).parents[1] / "reference" / "recorded_sgmp_unet.npz"


NARROW = {"width": 48, "spatial_width": 16}  # the same layers in a sixth of the parameters


def pair(**widths):
    """The fast and the plain network with the same weights, in float64."""
    with undrawn_weights():
        plain = PlainSGMPUNet(**widths)
        fast = build_model("sgmp_unet", **widths)
    fill_deterministically(plain)
    fast.load_state_dict(fast.from_published(plain.state_dict()))
    return fast.double(), plain.double()


@pytest.fixture(scope="module")
def networks():
    return pair(**NARROW)


def clip(height, width, batch=1, frames=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, 3, height, width, generator=generator, dtype=torch.float64)


def test_recorded_answer():
    """Outputs of the plain form with these weights, recorded once it had reproduced the published network's own."""
    fast, _ = pair()
    with torch.no_grad():
        outputs = fast.eval()(clip(32, 64), with_aux=True)
    expected = np.load(RECORDED)["outputs"]
    np.testing.assert_allclose(torch.cat(outputs).numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("height", "width", "batch"), [(32, 32, 2), (64, 96, 1)])
def test_forward_and_gradients_equal_the_plain_form(networks, height, width, batch, train):
    fast, plain = (copy.deepcopy(network) for network in networks)
    assert_same(
        fast,
        plain,
        clip(height, width, batch),
        lambda net, x: net(x, with_aux=True),
        lambda net, x: net(x.transpose(1, 2)),
        train,
        tolerance=1e-7,
    )


def test_float32_differs_by_rounding_only(networks):
    x = clip(64, 64)
    with torch.no_grad():
        exact = networks[0].eval()(x)
        single = copy.deepcopy(networks[0]).float()(x.float())
    assert (single - exact).abs().median() <= 1e-4


WINDOWS = [
    (FastWindowAttention3d, ShiftedWindowAttention3d, (8, 7, 7), (4, 3, 3), (1, 3, 16, 23, 12)),  # pads, shifts
    (FastWindowAttention3d, ShiftedWindowAttention3d, (8, 7, 7), (4, 3, 3), (2, 3, 7, 14, 12)),  # one side one window
    (FastWindowAttention3d, ShiftedWindowAttention3d, (2, 3, 4), (1, 1, 2), (2, 5, 6, 9, 12)),  # shifts in time too
    (FastWindowAttention3d, ShiftedWindowAttention3d, (8, 7, 7), (0, 0, 0), (1, 3, 3, 4, 12)),  # smaller than a window
    (FastWindowAttentionV2, ShiftedWindowAttentionV2, (7, 7), (3, 3), (2, 15, 22, 12)),
    (FastWindowAttentionV2, ShiftedWindowAttentionV2, (7, 7), (3, 3), (1, 5, 15, 12)),
    (FastWindowAttentionV2, ShiftedWindowAttentionV2, (7, 7), (0, 0), (2, 14, 8, 12)),
    (FastWindowAttentionV2, ShiftedWindowAttentionV2, (7, 7), (0, 0), (2, 14, 7, 12)),  # its windows lie as the input
]


@pytest.mark.parametrize("scores_bytes", [1, 1 << 22])
@pytest.mark.parametrize(("fast_class", "plain_class", "window", "shift", "shape"), WINDOWS)
def test_window_attention_equals_torchvision(monkeypatch, fast_class, plain_class, window, shift, shape, scores_bytes):
    monkeypatch.setattr(window_attention, "SCORES_BYTES", scores_bytes)
    plain = plain_class(12, list(window), list(shift), 3).double()
    fill_deterministically(plain)
    fast = fast_class(12, list(window), list(shift), 3).double()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for module in (fast, plain):
        inputs = x.clone().requires_grad_()
        out = module(inputs)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out.detach(), inputs.grad, *(weight.grad for weight in module.parameters())])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-10 * max(1.0, reference.abs().max().item()))
    inputs = x.clone()
    with torch.no_grad():  # without gradients it computes in another order, and must not write over its input
        torch.testing.assert_close(fast(inputs), results[1][0], rtol=0, atol=1e-10)
    assert torch.equal(inputs, x)


@pytest.mark.parametrize(("strength", "cut"), [(1.0, True), (100.0, False)])
@pytest.mark.parametrize(
    ("fast_class", "plain_class", "window", "shift", "shape"),
    [
        (FastWindowAttention3d, ShiftedWindowAttention3d, (8, 7, 7), (4, 3, 3), (1, 3, 14, 14, 12)),
        (FastWindowAttentionV2, ShiftedWindowAttentionV2, (7, 7), (3, 3), (1, 14, 14, 12)),
    ],
)
def test_window_attention_equals_torchvision_where_scores_outweigh_the_mask(
    monkeypatch, fast_class, plain_class, window, shift, shape, strength, cut
):
    """torchvision's mask of -100 is finite: windows are cut only where nothing shows through it."""
    plain = plain_class(12, list(window), list(shift), 6).eval()
    fill_deterministically(plain)
    with torch.no_grad():
        if plain_class is ShiftedWindowAttentionV2:
            plain.logit_scale.fill_(math.log(strength))
        else:
            plain.qkv.weight[:12] *= strength
    fast = fast_class(12, list(window), list(shift), 6).eval()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    attended = []
    plainly = window_attention._attend_in_pieces
    monkeypatch.setattr(window_attention, "_attend_in_pieces", lambda *given: attended.append(given) or plainly(*given))
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(fast(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert bool(attended) == cut


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("hidden_bytes", [1, 1 << 21])
def test_chunked_mlp_equals_the_whole(monkeypatch, hidden_bytes, normed):
    monkeypatch.setattr("istd.models.ops.mlp.HIDDEN_BYTES", hidden_bytes)
    block = build_model("sgmp_unet", **NARROW).head.blocks[0][0].double()
    fill_deterministically(block)
    norm = block.norm2 if normed else None
    results = []
    for function in (lambda x: chunked_mlp(x, block.mlp, norm), lambda x: block.mlp(norm(x) if norm else x)):
        x = torch.randn(2, 3, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        block.zero_grad()
        function(x).square().sum().backward()
        weights = [*block.mlp.parameters(), *(norm.parameters() if norm else [])]
        results.append([x.grad, *(weight.grad for weight in weights)])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-10)


def test_the_low_prior_is_two_percent_and_decoder_blocks_begin_as_the_identity():
    torch.manual_seed(0)
    network = build_model("sgmp_unet", **NARROW).double().eval()
    network.init_low_prior()
    block = network.decoder.blocks[0][0]
    x = torch.randn(1, 8, 8, 192, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(block(x), x)
        for conv in (*network.head.side, network.head.main):
            empty = conv.weight.new_zeros(1, conv.in_channels, 1, 1)
            if conv is network.head.main:
                empty += network.head.side[0].bias
            torch.testing.assert_close(conv(empty).sigmoid().item(), 0.02)


def test_every_parameter_gets_a_gradient_without_auxiliary_losses(networks):
    fast = copy.deepcopy(networks[0]).train()
    fast(clip(32, 32, batch=2)).square().mean().backward()
    assert [name for name, weight in fast.named_parameters() if weight.grad is None] == []


def test_single_equals_batched(networks):
    x = clip(32, 64, batch=2)
    with torch.no_grad():
        batched = networks[0].eval()(x)
        single = torch.cat([networks[0](sample[None]) for sample in x])
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-7)


def test_a_causal_network_is_guided_by_the_last_frame():
    torch.manual_seed(0)
    published = build_model("sgmp_unet", **NARROW, num_frames=4).eval()
    causal = build_model("sgmp_unet", **NARROW, num_frames=4, causal="true", frame_stride="3").eval()
    assert (published.target_index, published.frame_stride) == (2, 1)
    assert (causal.target_index, causal.frame_stride, causal.options["causal"]) == (3, 3, True)
    assert "logits [B, 1, H, W] of frame 3 of the clip" in model_card(causal)
    causal.load_state_dict(published.state_dict())
    seen = []
    for network in (published, causal):
        network.encoder.spatial_stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    clip = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(published(clip), causal(clip))
    assert torch.equal(seen[0], clip[:, 2]) and torch.equal(seen[1], clip[:, 3])
    with pytest.raises(InputError, match="frame_stride"):
        build_model("sgmp_unet", frame_stride=0)
