"""DATransNet equals the published network: its recorded answers, and the plain form at other sizes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from istd.models import build_model
from istd.models.ops import gradient_attention, key_products
from istd.models.ops.gradient_attention import surround_kernel
from tests.reference.network_cases import assert_same, fill_deterministically
from tests.reference.plain_datransnet import PlainDATransNet, surround

RECORDED = Path(__file__).parents[1] / "reference" / "recorded_datransnet.npz"


def pair(image_size=256, seed=0):
    """The fast and the plain network with the same weights, in float64."""
    plain = PlainDATransNet(image_size)
    fill_deterministically(plain, seed)
    fast = build_model("datransnet", image_size=image_size)
    fast.load_state_dict(fast.from_published(plain.state_dict()))
    return fast.double(), plain.double()


def image(height, width, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64)


def test_recorded_answer():
    """Logits of the plain form with these weights, recorded once it had reproduced the published network's own."""
    fast, _ = pair()
    with torch.no_grad():
        logits = fast.eval()(image(64, 96)[:, None])
    np.testing.assert_allclose(logits.numpy(), np.load(RECORDED)["logits"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "image_size", "seed"), [(32, 32, 256, 0), (64, 96, 256, 1), (96, 32, 512, 2)]
)
def test_forward_and_gradients_equal_the_plain_form(height, width, image_size, seed, train):
    fast, plain = pair(image_size, seed)
    x = image(height, width, batch=2)
    assert_same(fast, plain, x, lambda net, x: [net(x[:, None])], lambda net, x: [net(x)], train, tolerance=1e-9)


@pytest.mark.parametrize("threads", [1, 3])
def test_bands_do_not_change_the_result(monkeypatch, threads):
    """Bands of four rows and a shorter one, several of which threads take at once: the same sums and gradients."""
    fast, plain = pair()
    monkeypatch.setattr(key_products, "BAND_VALUES", 4 * 16 * 64)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    x = image(32, 64, batch=2)
    assert_same(fast, plain, x, lambda net, x: [net(x[:, None])], lambda net, x: [net(x)], True, tolerance=1e-9)


def test_a_patch_gram_by_hand():
    """One row of ones at the top of 3 x 3 zeros, padded by a pixel of ones: how often two taps are both 1."""
    padded = torch.zeros(1, 1, 5, 5)
    padded[:, :, :2] = 1.0
    gram, sums = key_products.patch_gram(padded, 1)
    # the upper taps are 1 in the first two rows of pixels, the middle ones in the first, the lower ones nowhere
    ones = torch.tensor([6.0, 3.0, 0.0]).repeat_interleave(3)
    assert torch.equal(gram[0], torch.minimum(ones[:, None], ones))
    assert torch.equal(sums[0], ones - 3)


@pytest.mark.parametrize(("height", "width", "shift"), [(3, 4, 1), (9, 7, 2), (12, 15, 3)])
def test_patch_gram_equals_the_products_of_patches(height, width, shift):
    generator = torch.Generator().manual_seed(0)
    padded = torch.randn(2, 3, height + 2 * shift, width + 2 * shift, dtype=torch.float64, generator=generator)
    patches = torch.nn.functional.unfold(padded, 3, dilation=shift).unflatten(1, (3, 9)).transpose(1, 2).flatten(1, 2)
    gram, sums = key_products.patch_gram(padded, shift)
    torch.testing.assert_close(gram, patches @ patches.mT, rtol=0, atol=1e-11)
    taps = patches.sum(dim=2).unflatten(1, (9, 3))
    torch.testing.assert_close(sums, (taps - taps[:, 4:5]).flatten(1), rtol=0, atol=1e-11)


def test_low_contrast_costs_no_digits():
    """A thousandth of the contrast, far from zero: with the mean in them, sums in float32 would be far off."""
    x = (0.6 + 1e-3 * image(64, 64).repeat(1, 16, 1, 1)).float().double()
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(8, 16, dtype=torch.float64, generator=generator)
    keys = gradient_attention.surround_weights(torch.randn(1, 64, 8 * 16, dtype=torch.float64, generator=generator))
    results = []
    for dtype in (torch.float64, torch.float32):
        padded = torch.nn.functional.pad(x, (1,) * 4, mode="reflect").to(dtype)
        mean = x.to(dtype).mean(dim=(2, 3))[..., None]
        results.append(key_products.KeyProducts.apply(query.to(dtype), padded, mean, keys.to(dtype), (1,)))
    for exact, single in zip(*results, strict=True):
        assert (single - exact).abs().max() <= 1e-4 * exact.abs().mean()


def test_float32_differs_by_rounding_only():
    fast, _ = pair()
    x = image(64, 64)
    with torch.no_grad():
        exact = fast.eval()(x[:, None])
        single = copy.deepcopy(fast).float()(x[:, None].float())
    assert (single - exact).abs().median() <= 1e-6


@pytest.mark.parametrize("form", ["gram", "maps"])
def test_products_beyond_float16_stay_finite(monkeypatch, form):
    """With the shipped weights the sums over all pixels reach 2.4e6; float16 ends at 65504."""
    monkeypatch.setattr(gradient_attention, "GRAM_KEYS", 1 if form == "gram" else 1000)
    module = build_model("datransnet").transformers[0]
    sums = []
    plain = gradient_attention._cosines
    monkeypatch.setattr(gradient_attention, "_cosines", lambda *parts: sums.append(parts) or plain(*parts))
    with torch.no_grad():
        x = 90 * image(64, 64).float().repeat(1, 16, 1, 1)
        exact = module(x)
        with torch.autocast("cpu", torch.float16):
            half = module(x)
    assert sums[0][0].max() > torch.finfo(torch.float16).max
    for reference, mine in zip(*sums, strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-2, atol=2e-2 * reference.abs().max().item())
    torch.testing.assert_close(half.float(), exact, rtol=5e-2, atol=5e-2 * exact.abs().max().item())


def test_autocast_leaves_float64_as_it_is():
    fast, _ = pair()
    x = image(64, 64)[:, None]
    with torch.no_grad():
        expected = fast.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(fast(x), expected, rtol=0, atol=1e-12)


def test_image_size_scales_the_scores():
    """The side it is built for is part of the network: 512 gives other logits than 256 with the same weights."""
    fast, _ = pair(256)
    other, _ = pair(512)
    x = image(64, 64)[:, None]
    with torch.no_grad():
        assert (fast.eval()(x) - other.eval()(x)).abs().max() > 1e-6


def test_surround_kernel_by_hand():
    """A weight of 1 on the right-hand neighbour of channel 1 alone: the kernel is that tap minus the centre."""
    taps = torch.zeros(1, 8 * 2)
    taps[0, 4 * 2 + 1] = 1.0  # direction 4 of raster order without the centre is "right"; channel 1 of 2
    kernel = surround_kernel(taps)
    expected = torch.zeros(1, 2, 3, 3)
    expected[0, 1, 1, 2], expected[0, 1, 1, 1] = 1.0, -1.0
    assert torch.equal(kernel, expected)


def test_surround_kernel_equals_the_surround():
    x = image(9, 7, batch=2).repeat(1, 3, 1, 1) * torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1)
    taps = torch.randn(5, 8 * 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (3,) * 4, mode="reflect")
    fast = torch.nn.functional.conv2d(padded, surround_kernel(taps), dilation=3)
    plain = torch.nn.functional.conv2d(surround(x, 3), taps[..., None, None])
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)


def test_single_equals_batched():
    fast, _ = pair()
    x = image(32, 64, batch=3)[:, None]
    with torch.no_grad():
        batched = fast.eval()(x)
        single = torch.cat([fast(sample[None]) for sample in x])
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-12)


def test_the_low_prior_is_two_percent():
    network = build_model("datransnet").eval()
    network.init_low_prior()
    with torch.no_grad():
        logit = network.head.logit(torch.zeros(1, 16, 2, 2))
    torch.testing.assert_close(logit.sigmoid(), torch.full((1, 1, 2, 2), 0.02))
