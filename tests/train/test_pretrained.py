"""Kinetics-400 weights find their places in SGMP-UNet."""

import re

import pytest
import torch
from torchvision.models.video import Swin3D_T_Weights, swin3d_t

from istd.models import build_model
from istd.models.weights import load_pretrained_backbone
from istd.utils.errors import InputError
from tests.reference.network_cases import undrawn_weights


@pytest.fixture(scope="module")
def network():
    with undrawn_weights():
        return build_model("sgmp_unet")


def test_the_temporal_branch_computes_what_torchvisions_network_does(network, tmp_path):
    torch.manual_seed(1)
    with undrawn_weights():
        reference = swin3d_t().eval()
    for parameter in reference.parameters():
        parameter.data.normal_(std=0.02)
    torch.save(reference.state_dict(), tmp_path / "swin.pth")
    load_pretrained_backbone(network, str(tmp_path / "swin.pth"))
    clip = torch.randn(1, 3, 6, 32, 32)
    with torch.no_grad():
        expected = reference.features[:3](reference.patch_embed(clip))
        encoder = network.encoder.eval()
        first = encoder.stages[0].temporal(encoder.patch_embed(clip))
        second = encoder.stages[1].temporal(encoder.stages[1].merge(first))
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)


def test_every_weight_but_the_head_has_a_place(network):
    own = network.state_dict()
    with undrawn_weights():
        weights = swin3d_t().state_dict()
    renamed = network.from_backbone(weights)
    assert len(renamed) == sum(not name.startswith("head.") for name in weights)
    assert all(own[name].shape == weight.shape for name, weight in renamed.items())
    assert all(re.match(network.pretrained_part, name) for name in renamed)


def test_other_files_and_networks_are_refused(network, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth do not fit sgmp_unet .*expected torchvision's Swin3D_T_Weights"):
        load_pretrained_backbone(network, str(tmp_path / "other.pth"))
    with pytest.raises(InputError, match="there is no checkpoint file"):
        load_pretrained_backbone(network, str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match="datransnet has no pretrained backbone"):
        load_pretrained_backbone(build_model("datransnet"), "download")


def test_a_failed_download_says_what_to_do(network, monkeypatch):
    def fail(*args, **named):
        raise OSError("no route to host")

    monkeypatch.setattr(Swin3D_T_Weights, "get_state_dict", fail)
    with pytest.raises(InputError, match=r"no route to host; fetch https://.* elsewhere"):
        load_pretrained_backbone(network, "download")
