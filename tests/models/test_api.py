"""What every network of `models` promises: how it is built, called, compiled, and what it refuses."""

import builtins
import os
import socket

import pytest
import torch
from torch import nn

from istd.models import MODELS, Network, build_model, load_model
from istd.models.sgmp_unet import SMALL as SMALL_VARIANT
from istd.models.weights import DERIVED
from istd.utils.errors import InputError

NARROW = {
    "width": 48,
    "depths": (2, 1, 1, 1),
    "spatial_depths": (1, 1, 1, 1),
    "decoder_depths": (1, 2, 1),
    "head_heads": (3, 1),
}
SMALL = {"datransnet": {"width": 8}, "sgmp_unet": {"num_frames": 2, **NARROW}}


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: build_model(name, **options).eval() for name, options in SMALL.items()}


@pytest.fixture(params=sorted(SMALL))
def network(request, networks):
    return networks[request.param]


def random_clip(model, batch=1, height=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, model.num_frames, model.in_channels, height, width, generator=generator)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown model 'unet'; known models: datransnet, sgmp_unet"):
        build_model("unet")


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(
        InputError, match=r"datransnet has no option 'depth'; did .* width\?; its options: image_size, w"
    ):
        build_model("datransnet", depth=3)
    with pytest.raises(
        InputError, match="sgmp_unet has no option 'a, b'; its options: num_frames, width, depths, heads"
    ):
        build_model("sgmp_unet", b=1, a=2, num_frames=4)


def test_options_are_converted_to_the_types_of_the_signature_or_refused():
    model = build_model("sgmp_unet_small", num_frames="2", depths=[1, 1, 1, 1], decoder_depths="1,1,1")
    given = {"num_frames": 2, "depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)}
    assert model.name == "sgmp_unet" and model.num_frames == 2
    assert model.options == {**build_model("sgmp_unet").options, **SMALL_VARIANT, **given}
    for value in ("wide", 8.5, True, None):
        with pytest.raises(InputError, match=r"option width of datransnet is '.*', expected integer"):
            build_model("datransnet", width=value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgmp_unet", {"width": 50}, "width that is a multiple of 16; got 50"),
        ("sgmp_unet", {"width": 64}, r"4 temporal stages of \[64, 128, 256, 512\] channels"),
        ("sgmp_unet", {"decoder_depths": (2, 2)}, "3 decoder stages"),
        ("sgmp_unet", {"head_heads": (6, 0)}, r"2 head stages of \[24, 6\] channels"),
        ("sgmp_unet", {"spatial_width": 0}, "spatial_width of at least 1"),
        ("datransnet", {"width": 6}, "width that is a multiple of 4; got 6"),
    ],
)
def test_options_that_do_not_fit_together_are_explained(name, options, message):
    with pytest.raises(InputError, match=message):
        build_model(name, **options)


def test_images_of_datransnet_have_a_size():
    with pytest.raises(InputError, match="image_size of at least 1 pixel; got 0"):
        build_model("datransnet", image_size=0)


@pytest.mark.parametrize("frames", [5, 1, 0, -2])
def test_clips_of_sgmp_unet_are_even(frames):
    with pytest.raises(InputError, match=f"even number of frames from 2; got num_frames={frames}"):
        build_model("sgmp_unet", num_frames=frames)


def test_names_and_attributes(network):
    assert MODELS[network.name] is type(network)
    assert network.options.items() >= SMALL[network.name].items()
    assert network.size_multiple == 32
    assert (network.num_frames, network.in_channels) == {"datransnet": (1, 1), "sgmp_unet": (2, 3)}[network.name]


def test_options_rebuild_the_same_network(network):
    again = build_model(network.name, **network.options)
    shapes = {name: weight.shape for name, weight in network.state_dict().items()}
    assert {name: weight.shape for name, weight in again.state_dict().items()} == shapes
    assert again.options == network.options


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_every_even_clip_length_and_a_batch(frames):
    model = build_model("sgmp_unet", num_frames=frames, **NARROW).eval().double()
    clip = random_clip(model, batch=2, height=32, width=64).double()
    with torch.no_grad():
        logits = model(clip, with_aux=True)
        assert [tuple(each.shape) for each in logits] == [(2, 1, 32, 64)] * 4
        torch.testing.assert_close(model(clip[1:]), logits[0][1:], rtol=0, atol=1e-8)
        changed = clip.clone()
        changed[:, 0] += 1.0  # every frame of the clip matters, and the target frame is number T // 2
        assert not torch.equal(model(changed), logits[0])


def test_the_target_frame_is_the_one_after_the_middle():
    model = build_model("sgmp_unet", num_frames=4, **NARROW).eval()
    seen = []
    model.encoder.spatial_stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    clip = random_clip(model)
    with torch.no_grad():
        model(clip)
    assert torch.equal(seen[0], clip[:, 2])


def test_with_aux_puts_the_main_logits_first(network):
    clip = random_clip(network, height=32, width=96)
    with torch.no_grad():
        main, listed = network(clip), network(clip, with_aux=True)
    assert main.shape == (1, 1, 32, 96)
    assert len(listed) == {"datransnet": 1, "sgmp_unet": 4}[network.name]
    torch.testing.assert_close(listed[0], main)
    assert all(logits.shape == main.shape for logits in listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip: clip[0], "has 4 dimensions"),
        (lambda clip: torch.cat([clip, clip, clip], dim=1), r"got T = \d frames"),
        (lambda clip: torch.cat([clip, clip], dim=2), r"got C = \d channels"),
        (lambda clip: clip[..., :33], "got H x W = 64 x 33; pad or resize the frames"),
        (lambda clip: clip[..., :16, :], "got H x W = 16 x 64"),
        (lambda clip: clip[..., :0], "got H x W = 64 x 0"),
        (lambda clip: clip.mul(255).byte(), "got dtype torch.uint8; convert the frames to float"),
    ],
)
def test_wrong_clips_are_explained(network, change, message):
    expected = (
        rf"{network.name} expects a float clip \[B, {network.num_frames}, {network.in_channels}, H, W\].*{message}"
    )
    with pytest.raises(ValueError, match=expected):
        network(change(random_clip(network)))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_building_touches_neither_network_nor_disk(name, monkeypatch):
    def forbidden(*given, **named):
        raise AssertionError(f"building opened {given}")

    build_model(name, **SMALL[name])  # which imports libraries
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", forbidden)
        patch.setattr(builtins, "open", forbidden)
        patch.setattr(os, "open", forbidden)
        patch.setattr(torch, "load", forbidden)
        patch.setattr(torch.hub, "load_state_dict_from_url", forbidden)
        build_model(name, **SMALL[name])


def test_loading_draws_no_weights_and_keeps_computed_buffers(network, tmp_path):
    """The derived buffers are left out of the file, as in those that ship with the repository."""
    expected = network.state_dict()
    torch.save({name: value for name, value in expected.items() if not name.endswith(DERIVED)}, tmp_path / "net.pth")
    torch.manual_seed(3)
    loaded = load_model(tmp_path / "net.pth", **SMALL[network.name]).state_dict()
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3)), "loading drew random numbers"
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(loaded[name], value), name


def test_loading_keeps_buffers_that_are_drawn_from_a_seed_and_not_saved(tmp_path, monkeypatch):
    class Projection(Network):
        """Projects pixels onto a fixed random direction."""

        name = "projection"

        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(1, 1)
            direction = torch.empty(3).normal_(generator=torch.Generator().manual_seed(0))
            self.register_buffer("direction", direction, persistent=False)

    monkeypatch.setitem(MODELS, "projection", Projection)
    network = build_model("projection")
    network.save_pretrained(tmp_path)
    for loaded in (load_model(tmp_path), Projection.from_pretrained(tmp_path)):
        assert torch.equal(loaded.direction, network.direction) and loaded.direction.all()
        assert torch.equal(loaded.scale.weight, network.scale.weight)


def test_backbone_parameters(networks):
    assert networks["datransnet"].backbone_parameters() == []
    model = networks["sgmp_unet"]
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in backbone) == (name.startswith("encoder.") and ".fusion." not in name), name


def test_every_parameter_gets_a_finite_gradient(network):
    for training in (True, False):
        network.train(training)
        network.zero_grad()
        sum(logits.square().mean() for logits in network(random_clip(network, batch=2), with_aux=True)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    network.zero_grad()


def test_bf16_autocast_is_close(network):
    clip = random_clip(network, batch=2, seed=3)

    def run(enabled):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(clip)
        nn.functional.binary_cross_entropy_with_logits(logits.float(), (clip[:, 0, :1] > 0.9).float()).backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        network.zero_grad()
        return logits.detach().float(), gradients

    logits, gradients = run(False)
    half_logits, half_gradients = run(True)
    assert half_gradients.isfinite().all()
    assert not torch.equal(logits, half_logits)  # autocast was on
    # with random weights sgmp_unet amplifies rounding: the cosine of its plain form's gradients was 0.83, of ours 0.97
    close, alike = {"datransnet": (0.02, 0.99), "sgmp_unet": (0.15, 0.75)}[network.name]
    assert (half_logits - logits).abs().mean() < close * logits.abs().mean()
    assert nn.functional.cosine_similarity(half_gradients, gradients, dim=0) > alike


def test_fp16_autocast_is_finite_and_close(network):
    """Padding gives window attention keys of zero, and the key products of DATransNet exceed what float16 can hold."""
    clip = random_clip(network, batch=2, seed=3)
    network.zero_grad()
    with torch.no_grad():
        exact = network(clip)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        inferred = network(clip).float()
    with torch.autocast("cpu", torch.float16):
        logits = network(clip).float()
    (16 * nn.functional.softplus(logits).mean()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    network.zero_grad()
    for half in (inferred, logits.detach()):
        assert not torch.equal(half, exact)  # autocast was on
        assert (half - exact).abs().mean() < 0.05 * exact.abs().mean()
