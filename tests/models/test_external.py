"""Networks from the user's code: found, built, adapted, tried, saved, and loaded only with the code named."""

import copy
import re
import sys

import pytest
import torch
from torch import nn

from istd.models import DATransNet, Network, build_model, load_model, try_network
from istd.models.user_code import find_factory, is_external, short_name
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.preparation import load_recipe
from istd.train_script.starting_point import find_start
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError

CODE = """
import functools
import torch
from torch import nn
from helper import scale


class Net(nn.Module):
    def __init__(self, width: int = 2, gains=(1.0, 2.0), *, needed=1):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.gains = gains

    def forward(self, x):
        return scale(self.norm(self.conv(x)).sum(1, keepdim=True))


class Deep(Net):
    def forward(self, x):
        out = super().forward(x)
        return (out[..., ::2, ::2], out[..., ::4, ::4]), out + 1


class Named(Net):
    def forward(self, x):
        return {"edge": super().forward(x), "mask": super().forward(x) + 3}


class Sigmoid(Net):
    def forward(self, x):
        return super().forward(x).sigmoid()


class TwoClasses(Net):
    def forward(self, x):
        out = super().forward(x)
        return torch.cat([-out, 2 * out], 1)


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 1, (3, 1, 1), bias=False)

    def forward(self, x):  # [B, C, T, H, W]
        return self.conv(x)[:, :, 0]


class Needs(nn.Module):
    def __init__(self, n_channels):
        super().__init__()


class DeepInTraining(Net):  # side outputs and features, in training alone
    def forward(self, x):
        out = super().forward(x)
        return [out, out[..., ::2, ::2], out.expand(-1, 7, -1, -1), out.mean()] if self.training else out


class InPlace(Net):
    def forward(self, x):
        return super().forward(x.sub_(x.mean()))


class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()


class Keeps(Net):
    def forward(self, x):
        self.mean = x.mean()
        return super().forward(x - self.mean)


class Collects(Net):
    def __init__(self):
        super().__init__()
        self.outs = []

    def forward(self, x):
        self.outs.append(super().forward(x))
        return self.outs[-1]


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(1, 1)


class EndsInSoftmax(TwoClasses):
    def forward(self, x):
        return super().forward(x).softmax(1)


class NotFinite(Net):
    def forward(self, x):
        return super().forward(x) / 0


class Fails(Net):
    def forward(self, x):
        raise KeyError("features")  # the line that the message names


class RandomFeatures(Net):  # which no checkpoint holds
    def __init__(self):
        super().__init__()
        self.register_buffer("features", torch.empty(3).normal_(), persistent=False)


class EndsTheProgram(Net):
    def forward(self, x):
        raise SystemExit(2)


class Empty(Net):
    def forward(self, x):
        return None


class Thresholded(Net):
    def forward(self, x):
        return super().forward(x) > 0


class Options(nn.Identity):
    def __init__(self, name="net", rate=0.1, norm=nn.BatchNorm2d, size: "str" = "8"):
        super().__init__()


Small = functools.partial(Net, width=1)


def build(width=1):
    return nn.Conv2d(1, width, 1)


number = 3
"""


@pytest.fixture
def net(tmp_path):
    """A function: class name -> the name of that class in a file whose neighbour it imports."""
    (tmp_path / "helper.py").write_text("def scale(x):\n    return x\n")
    (tmp_path / "net.py").write_text(CODE)
    return lambda name: f"{tmp_path / 'net.py'}:{name}"


def clip(frames=1, side=32):
    return torch.rand(2, frames, 1, side, side, generator=torch.Generator().manual_seed(1))


def test_names_of_code_are_told_by_their_form():
    names = ("a/net.py:Net", "net.py:Net", "package.net.Net", "package.net:Net", "datransnet", "unet")
    assert [is_external(name) for name in names] == [True, True, True, True, False, False]
    assert [short_name(name) for name in names] == ["Net", "Net", "Net", "Net", "datransnet", "unet"]


def test_a_single_map_is_that_of_the_network_itself(net):
    model = build_model(net("Net"), width="3", gains="[1, 2]").eval()
    assert (model.name, model.options) == ("Net", {"width": 3, "gains": [1, 2]})
    torch.testing.assert_close(model(clip()), model.net(clip()[:, 0]), rtol=0, atol=0)
    assert build_model("torch.nn.Conv2d", in_channels="1", out_channels="1", kernel_size="1").name == "Conv2d"
    assert isinstance(build_model(net("build")).net, nn.Conv2d)
    small = build_model(net("Small"))
    assert len(small.net.conv.weight) == 1 and small.code["file"] == "net.py" and small.code["sha256"]


def test_options_are_converted_by_their_types_or_read_as_yaml(net):
    given = {"name": "a", "rate": "1e-3", "norm": "None", "size": "16"}
    assert build_model(net("Options"), **given).options == {"name": "a", "rate": 0.001, "norm": None, "size": "16"}


def test_the_prediction_among_several_maps_is_named(net):
    with pytest.raises(
        InputError, match=r"of 0\.0 \[2, 1, 16, 16\], 0\.1 \[2, 1, 8, 8\], 1 \[2, 1, 32, 32\]; say which"
    ):
        build_model(net("Deep"))(clip())
    for main in ("-1", "1", "2"):  # "1" is a key here, "2" the index of the third map
        model = build_model(net("Deep"), {"main": main}).eval()
        first, *auxiliary = model(clip(), with_aux=True)
        torch.testing.assert_close(first, model.net(clip()[:, 0])[1])
        assert [tuple(side.shape) for side in auxiliary] == [(2, 1, 32, 32)] * 2, "side outputs are resized"
    named = build_model(net("Named"), {"main": "mask"}).eval()
    torch.testing.assert_close(named(clip()), named.net(clip()[:, 0])["mask"])


def test_probabilities_and_two_classes_become_logits(net):
    for kind, output in (("Sigmoid", "probability"), ("EndsInSoftmax", "probability"), ("TwoClasses", "softmax")):
        model = build_model(net(kind), {"output": output}).eval()
        raw = model.net(clip()[:, 0])
        expected = raw.softmax(1)[:, 1:] if output == "softmax" else raw[:, -1:]
        torch.testing.assert_close(model(clip()).sigmoid(), expected, rtol=0, atol=2e-6)


def test_frames_come_in_the_declared_layout(net):
    model = build_model(net("Video"), {"frames": "3", "layout": "BCTHW"}).eval()
    weights = model.net.conv.weight.flatten()
    expected = sum(weight * frame for weight, frame in zip(weights, clip(3).unbind(1), strict=True))
    torch.testing.assert_close(model(clip(3)), expected)


def test_the_target_frame_and_the_stride_are_declared(net):
    model = build_model(net("Video"), {"frames": "3", "layout": "BCTHW", "target": "last", "stride": 2})
    assert (model.target_index, model.frame_stride) == (2, 2)
    model = build_model(net("Video"), {"frames": "3", "layout": "BCTHW"})
    assert (model.target_index, model.frame_stride) == (1, 1)


def test_the_trial_says_what_is_wrong_or_odd(net):
    assert try_network(build_model(net("Sigmoid"), {"output": "probability"}), 32) == []
    with pytest.raises(
        InputError, match="ends in a sigmoid, so it gives no logits; use --interface output=probability"
    ):
        try_network(build_model(net("Sigmoid")), 32)
    (note,) = try_network(build_model(net("Deep"), {"main": "0.0"}), 32)
    assert note == "Deep: maps of [16, 16] px for 32 x 32 px are resized"
    with pytest.raises(InputError, match="which are no probabilities; use --interface output=logits"):
        try_network(build_model(net("Net"), {"output": "probability"}), 32)
    with pytest.raises(InputError, match=r"map of shape \[1, 2, 32, 32\].* expected floating-point \[B, 1, H, W\]"):
        try_network(build_model(net("TwoClasses")), 32)
    (note,) = try_network(build_model(net("NotFinite")).eval(), 32)
    assert note == "NotFinite: values of its map are not finite"
    for kind, message in (
        ("EndsInSoftmax", "ends in a softmax, so it gives no logits; use --interface output=probability"),
        ("Fails", r"cannot run Fails on a clip of .*; see --interface: KeyError: 'features' \(net\.py, line 105\)$"),
        ("EndsTheProgram", "SystemExit: 2 .*; code that ends the program, or reads its command line, cannot be used"),
        ("Empty", "Empty gives NoneType; expected tensors, alone or in a list or dict"),
        ("Thresholded", r"gives a torch.bool map .* expected floating-point \[B, 1, H, W\]"),
    ):
        with pytest.raises(InputError, match=message):
            try_network(build_model(net(kind), {"output": "softmax"} if "Softmax" in kind else {}), 32)
    with pytest.raises(InputError, match=r"cannot run Video on a clip of \[1, 3, 1, 32, 32\]"):
        try_network(build_model(net("Video"), {"frames": 3}), 32)


def test_a_network_in_training_mode_is_tried_in_that_too(net):
    with pytest.raises(InputError, match=r"DeepInTraining gives list of 0 \[2, 1, 32, 32\], .*--interface main=0"):
        try_network(build_model(net("DeepInTraining")), 32)
    model = build_model(net("DeepInTraining"), {"main": "0"})
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    unused = "outputs that are no maps are not used (2 [2, 7, 32, 32], 3 [])"
    assert try_network(model, 32) == [f"DeepInTraining: {unused}"] and model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert [len(model(clip(), with_aux=True)), model.eval()(clip()).shape] == [2, (2, 1, 32, 32)]


def test_a_network_is_exported_for_any_batch(net):
    """For which nothing may ask for the length of a batch as a number."""
    model, dynamic = build_model(net("Net")).eval(), {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (clip(),), dynamic_shapes=(dynamic,), strict=False)
    four = clip().repeat(2, 1, 1, 1, 1)
    torch.testing.assert_close(program.module()(four), model(four))


def test_a_network_without_gradients_is_for_inference_only(net):
    model = build_model(net("Detached"))
    with pytest.raises(InputError, match="Detached has no gradient, so it cannot be trained; use parameters, and no"):
        try_network(model, 32)
    assert try_network(model.eval(), 32) == []


def test_passes_of_a_network_do_not_run_side_by_side(net):
    """Its modules may keep values of a pass, in places that cannot be told from outside."""
    assert Predictor(build_model(net("Net")).eval(), None).one_by_one
    assert not Predictor(build_model("datransnet", width=4).eval(), None).one_by_one


@pytest.mark.parametrize("kind", ["Keeps", "Collects"])
def test_the_trial_leaves_nothing_in_a_network(net, kind):
    model = build_model(net(kind))
    before = copy.deepcopy(model.state_dict())
    assert try_network(model, 32) == []
    assert not hasattr(model.net, "mean") and getattr(model.net, "outs", []) == []
    after = copy.deepcopy(model).state_dict()  # as `WeightAverage` copies it
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_lazy_layers_are_refused(net):
    with pytest.raises(InputError, match="Lazy has lazy layers without weights; give their numbers of input channels"):
        try_network(build_model(net("Lazy")), 32)


def test_a_network_may_change_its_input(net):
    model, frames = build_model(net("InPlace")).eval(), clip()
    assert torch.equal(model(frames), model(frames)) and torch.equal(frames, clip())


@pytest.mark.parametrize(
    ("name", "interface", "options", "message"),
    [
        ("Missing", {}, {}, "has no class Missing; its networks: Net, Deep, Named, Sigmoid, TwoClasses, Video, Needs"),
        ("number", {}, {}, "has no class number"),
        ("Needs", {}, {}, "needs n_channels; give --model_options n_channels=VALUE"),
        ("Net", {}, {"depth": "3"}, "has no option 'depth'; its options: width, gains, needed"),
        ("Net", {}, {"width": "wide"}, "is 'wide', expected integer"),
        ("Net", {}, {"width": -1}, r"cannot build .*net\.py:Net with options .*RuntimeError: .*\(net\.py, line 11\)$"),
        ("build().weight", {}, {}, r"has no class build\(\)\.weight"),
        ("Net", {"frame": 3}, {}, "interface has no 'frame'; it has frames, stride, target, channels"),
        ("Net", {"frames": 3, "layout": "BCHW"}, {}, "has no axis for 3 frames"),
        ("Net", {"channels": 2}, {}, "interface channels is 2, expected 1 .grey. or 3"),
        ("Net", {"stride": 0}, {}, "interface stride is 0, expected at least 1"),
    ],
)
def test_mistakes_are_told(net, name, interface, options, message):
    with pytest.raises(InputError, match=message):
        build_model(net(name), interface, **options)


def test_code_that_cannot_be_imported_is_told(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "wrong.py").write_text("1 +\n")
    for name, message in (
        (
            f"{tmp_path}/broken.py:Net",
            r"No module named 'no_such_package' \(broken\.py, line 1\); install that package, or put",
        ),
        (f"{tmp_path}/wrong.py:Net", "SyntaxError"),
        (f"{tmp_path}/nothing.py:Net", "there is no file"),
        ("no_such_package.Net", "cannot import no_such_package"),
        (f"{tmp_path}/wrong.py", "names a file without its class; give .*wrong.py:ClassName"),
    ):
        with pytest.raises(InputError, match=message):
            find_factory(name)


def test_a_file_of_a_package_is_imported_as_its_part(tmp_path):
    package = tmp_path / "nets" / "deep_net"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "blocks.py").write_text("from torch import nn\nBlock = nn.Identity\n")
    (package / "net.py").write_text(
        "from .blocks import Block\nfrom deep_net.blocks import Block as Same\nNet = Block\n"
    )
    assert isinstance(build_model(f"{package}/net.py:Net").net, nn.Identity)


def test_a_file_beside_others_may_import_them_relatively(tmp_path):
    (tmp_path / "my.blocks.py").write_text("from .layers import Net\n")
    (tmp_path / "layers.py").write_text("from torch import nn\nNet = nn.Identity\n")
    assert isinstance(build_model(f"{tmp_path}/my.blocks.py:Net").net, nn.Identity)


def test_networks_of_several_repositories_have_neighbours_of_their_own(tmp_path):
    """Whose folders and modules have the same names, and so have their files and classes."""
    names = []
    for number in (1, 2):
        folder = tmp_path / f"repository{number}"
        for part in ("models", "parts"):
            (folder / part).mkdir(parents=True)
        (folder / "models" / "__init__.py").write_text("")
        (folder / "models" / "net.py").write_text(
            "from torch import nn\nfrom parts.gain import GAIN\nfrom .bias import BIAS\nfrom shift import SHIFT\n"
            "class Net(nn.Module):\n    def forward(self, x):\n        return (x + SHIFT) * GAIN + BIAS\n"
        )
        (folder / "parts" / "gain.py").write_text(f"GAIN = {number}\n")
        (folder / "models" / "bias.py").write_text(f"BIAS = {number}0\n")
        (folder / "shift.py").write_text(f"SHIFT = {number}00\n")
        names.append(f"{folder}/models/net.py:Net")
    first, second = (build_model(name) for name in names)
    torch.testing.assert_close(first(clip()), clip()[:, 0] + 110)
    torch.testing.assert_close(second(clip()), (clip()[:, 0] + 200) * 2 + 20)


def test_what_a_file_adds_to_the_path_stays_there(tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "imported_late.py").write_text("OFFSET = 3\n")
    (tmp_path / "late.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom torch import nn\n"
        "sys.path.append(str(Path(__file__).parent / 'library'))\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        from imported_late import OFFSET\n"
        "        return x + OFFSET\n"
    )
    torch.testing.assert_close(build_model(f"{tmp_path}/late.py:Net")(clip()), clip()[:, 0] + 3)


def test_neighbours_called_as_our_folders_are_those_beside_the_file(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "blocks_beside.py").write_text("from torch import nn\nBlock = nn.Identity\n")
    (tmp_path / "adapter.py").write_text("from models.blocks_beside import Block as Net\n")
    try:
        assert isinstance(build_model(f"{tmp_path}/adapter.py:Net").net, nn.Identity)
    finally:
        for name in ("models", "models.blocks_beside"):
            sys.modules.pop(name, None)


def test_a_checkpoint_brings_no_code(net, tmp_path, capsys):
    model = build_model(net("Deep"), {"main": "-1"}, width=3).eval()
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, model, {})
    with pytest.raises(
        InputError, match=r"holds weights of Deep, trained from net\.py .*: --model path/to/net\.py:Deep"
    ):
        load_model(path)
    with pytest.raises(InputError, match=r"--model gives .*:Net; a checkpoint brings no code"):
        load_model(path, code=net("Net"))
    loaded = load_model(path, code=[net("Net"), net("Deep")])
    assert loaded.options == {"width": 3} and not capsys.readouterr().out
    torch.testing.assert_close(loaded(clip()), model(clip()), rtol=0, atol=0)
    file = tmp_path / "elsewhere" / "net.py"
    file.parent.mkdir()
    file.write_text(CODE.replace("out + 1", "out + 2"))
    (file.parent / "helper.py").write_text("def scale(x):\n    return x\n")
    moved = load_model(path, code=f"{file}:Deep")
    assert "net.py has changed since" in capsys.readouterr().out
    torch.testing.assert_close(moved(clip()), model(clip()) + 1)
    alike = load_model(path, code=[f"{file}:Deep", net("Deep")])  # of two with this name, that which was trained
    torch.testing.assert_close(alike(clip()), model(clip()), rtol=0, atol=0)


def test_a_network_is_loaded_as_its_code_builds_it(net, tmp_path):
    save_checkpoint(tmp_path / "net.pth", build_model(net("RandomFeatures")), {})
    assert load_model(tmp_path / "net.pth", code=net("RandomFeatures")).net.features.all()


def test_weights_of_other_programs_are_loaded_into_named_code(net, tmp_path):
    model = build_model(net("Net"), width=4).eval()
    torch.save(
        {"state_dict": {f"module.{name}": weight for name, weight in model.net.state_dict().items()}},
        tmp_path / "w.pth",
    )
    loaded = load_model(tmp_path / "w.pth", code=net("Net"), width="4")
    torch.testing.assert_close(loaded(clip()), model(clip()), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"conv\.weight"):
        load_model(tmp_path / "w.pth", code=net("Net"))
    with pytest.raises(InputError, match="has no option 'image_size'"):  # and no conflict with other arguments
        load_recipe(tmp_path / "w.pth", None, code={"code": net("Net"), "image_size": "64"})


def test_a_folder_of_the_hub_gives_a_network_of_named_code(net, tmp_path):
    network, folder = build_model(net("Net"), width=3), tmp_path / "hub"
    network.save_pretrained(folder)
    loaded = Network.from_pretrained(folder, code=net("Net"))
    torch.testing.assert_close(loaded(clip()), network.eval()(clip()), rtol=0, atol=0)
    advice = f'holds a Net; load it with models.Network.from_pretrained("{folder}", code="FILE.py:Net")'
    with pytest.raises(InputError, match=re.escape(advice)):
        DATransNet.from_pretrained(folder)


def test_the_name_in_a_checkpoint_is_never_imported(net, tmp_path):
    """It could be that of any function, with the options as its arguments."""
    target, path = tmp_path / "harmed", tmp_path / "evil.pth"
    model = build_model(net("Net"))
    model.code = {}
    for name, options in (("os.mkdir", {"path": str(target)}), (net("Net"), {})):
        model.name, model.options = name, options
        save_checkpoint(path, model, {})
        for load in (load_model, lambda weights: find_start(None, {"init_weights": str(weights)})):
            with pytest.raises(
                InputError, match=r"evil\.pth is not as this code writes .* expected the name of a class"
            ):
                load(path)
    assert not target.exists()


def test_a_damaged_description_of_the_code_is_told(net, tmp_path):
    model = build_model(net("Net"))
    for code, message in (({"x": 1}, "lacks a part .*model.code.class"), (model.code | {"sha256": 3}, "is a int")):
        model.code = code
        save_checkpoint(tmp_path / "damaged.pth", model, {})
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / "damaged.pth")
