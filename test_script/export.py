"""Write a network as ONNX, checked against PyTorch in onnxruntime, or as safetensors with a model card.

An ONNX file takes `frames`, float32 [batch, T, H, W], grey in 0..1, and gives `probability`, float32 [batch, 1, H, W],
of the target frame, T // 2 for most networks. It contains the preprocessing of the preset (normalisation, local
contrast, resizing) and the padding to the sizes that the network takes. The batch is dynamic; with --dynamic (networks
whose attention has no windows), height and width are too, otherwise --size sets them. The metadata of the file
name the network, its preset, and what else a program has to know: `frames` (T), `target`, `stride`, `range` (of frames
deeper than 8 bits), `threshold`, `multiple`, `padding`, `version`. This needs torch 2.8, onnx, onnxruntime, and
onnxscript.

A safetensors file is a checkpoint that every command takes; its model card is written beside it as NAME.md.

Examples:

    python -m test_script.export --weights datransnet --output model.onnx --dynamic
    python -m test_script.export --weights datransnet --output model.safetensors
"""

import argparse
import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from istd.models.model_card import model_card
from istd.test_script.options import add_checkpoint_option, add_code_options, code_options
from istd.test_script.predictor.grey_network import GreyNetwork
from istd.test_script.predictor.preparation import eval_transform, load_recipe, preset_of, range_rule
from istd.utils.checkpoint import save_checkpoint
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path, check_writable
from istd.utils.grey_levels import range_value
from istd.utils.provenance import ROOT, package_version

NEEDED = ("onnx", "onnxruntime", "onnxscript")
MIN_TORCH = (2, 8)  # 2.6 does not translate every network; 2.7 was not tried
TOLERANCE = 1e-3  # of the probability
ROUNDING = 4
OPSET = 18
THRESHOLD = 0.5  # that `predict` uses by default
CHECK_BATCH = 3  # differs from the batch of the example, to check that the batch is dynamic
OTHER_SIZE = (-3, 21)  # px by which a second size differs, to check that dynamic sides are dynamic
MAX_FOLDED = (1 << 13, 1 << 16)  # bytes of inputs and output of operations that are computed beforehand


def main(argv: list[str] | None = None) -> None:
    """Export a checkpoint's network and check the file."""
    args = parse_arguments(argv)
    output = Path(args.output)
    check_writable(output, (".onnx", ".safetensors"))
    output = output.with_suffix(output.suffix.lower())  # commands recognise checkpoints by it
    model, settings = load_recipe(args.model_path, args.image_size, code=code_options(args))
    settings.pop("data", None)  # the record of the training images is not a setting
    if output.suffix == ".safetensors":
        model.settings = settings
        save_checkpoint(output, model, settings)
        with atomic_path(output.with_suffix(".md")) as card:
            card.write_text(model_card(model), encoding="utf-8")
        print(f"{output} and its model card {output.with_suffix('.md').name}")
        return
    check_packages()
    network, size = grey_network(model, settings, tuple(args.size), args.dynamic), tuple(args.size)
    export(network, output, size, args.dynamic)
    difference = check(network, output, size, args.dynamic)
    print(f"{output}: largest difference from PyTorch {difference:.1e}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.export", __doc__)
    add = parser.add_argument
    add_checkpoint_option(parser)
    add("--output", required=True, metavar="FILE", help="file to write: NAME.onnx or NAME.safetensors")
    size = "height and width of the frames; default 256 256"
    add("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help=size)
    add("--dynamic", action="store_true", help="let height and width vary")
    sizes = "for DATransNet checkpoints that do not record their image size; default 256"
    add("--image_size", type=int, metavar="PX", help=sizes)
    add_code_options(parser)
    args = parser.parse_args(argv)
    if min(args.size) < 1:
        raise InputError(f"--size {args.size[0]} {args.size[1]}; expected the height and width of frames in pixels")
    return args


def check_packages() -> None:
    """Raise `InputError` where a package that ONNX files need is missing or too old."""
    missing = " ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)
    if missing:
        raise InputError(f"export needs the packages {missing}; install them: pip install {missing}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        present = f"export needs torch {'.'.join(map(str, MIN_TORCH))} or newer, this is {torch.__version__}"
        raise InputError(f"{present}; update it: pip install --upgrade torch torchvision")


def grey_network(model: nn.Module, settings: dict[str, Any], size: tuple[int, int], dynamic: bool) -> GreyNetwork:
    """The network behind the preprocessing of its preset, for frames of `size` (H, W), or of any with `dynamic`."""
    preset = preset_of(model, settings)
    if dynamic and not model.any_size_onnx:
        raise InputError(f"{model.name} can be exported for one size only; leave --dynamic out and give --size")
    frame = np.zeros((1, *size), np.float32)
    clip, _ = eval_transform(model, settings)(frame, np.zeros(size, bool), np.random.default_rng(0))
    resized = tuple(clip.shape[-2:])
    if dynamic and resized != size:
        raise InputError(f"preset {preset} resizes frames; leave --dynamic out and give the --size of yours")
    return GreyNetwork(model, preset, (size, resized)).eval()


def metadata(network: GreyNetwork) -> dict[str, str]:
    """The metadata of an ONNX file: all that a program has to know about its network, as text."""
    model = network.model
    facts = {
        "network": model.name,
        "options": ", ".join(f"{name}={value}" for name, value in model.options.items()),
        "preset": network.preset,
        "frames": model.num_frames,
        "target": model.target_index,
        "stride": model.frame_stride,
        "input": "grey in 0..1; 8-bit frames are divided by 255",
        "range": range_value(range_rule(model.settings)),  # of deeper frames
        "threshold": THRESHOLD,
        "multiple": model.size_multiple,
        "padding": "by reflection at the bottom and the right, in the file",
        "version": package_version(ROOT) or "",
    }
    return {name: str(value) for name, value in facts.items()}


def export(network: GreyNetwork, path: Path, size: tuple[int, int], dynamic: bool) -> None:
    """Write the network to `path`, for frames of `size` (H, W), or of any size with `dynamic`."""
    axes = dict.fromkeys((0, 2, 3) if dynamic else (0,), torch.export.Dim.DYNAMIC)
    frames = torch.rand(2, network.model.num_frames, *size)
    program = torch.onnx.export(
        torch.export.export(network, (frames,), dynamic_shapes=(axes,), strict=False),
        input_names=["frames"],
        output_names=["probability"],
        opset_version=OPSET,
        optimize=False,  # it takes minutes; `simplify` takes seconds
        verbose=False,
    )
    simplify(program.model)
    program.model.metadata_props.update(metadata(network))
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)


def simplify(model: Any) -> None:
    """Fold what does not depend on the frames, and share equal computations; `model` is an `onnx_ir.Model`."""
    import onnx_ir.passes.common as passes  # optional
    from onnxscript import optimizer

    def share() -> None:
        passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
        passes.DeduplicateInitializersPass(size_limit=1 << 30)(model)
        passes.CommonSubexpressionEliminationPass()(model)
        passes.RemoveUnusedNodesPass()(model)

    passes.IdentityEliminationPass()(model)
    share()
    inputs, output = MAX_FOLDED
    optimizer.fold_constants(model, onnx_shape_inference=False, input_size_limit=inputs, output_size_limit=output)
    share()


def check(network: GreyNetwork, path: Path, size: tuple[int, int], dynamic: bool) -> float:
    """Largest difference of a probability between the file in onnxruntime and the network in PyTorch.

    Runs with another batch size, and with `dynamic` also another frame size, than the export. Raises `InputError` above
    `TOLERANCE`, or, where weights amplify rounding, above `ROUNDING` times PyTorch's difference from float64.
    """
    import onnxruntime  # optional

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes = [size]
    if dynamic:
        sizes.append(tuple(max(1, side + change) for side, change in zip(size, OTHER_SIZE, strict=True)))
    random = np.random.default_rng(0)
    exact_network = copy.deepcopy(network).double()
    largest, rounding = 0.0, 0.0
    for height, width in sizes:
        frames = random.random((CHECK_BATCH, network.model.num_frames, height, width), dtype=np.float32)
        (exported,) = session.run(None, {"frames": frames})
        with torch.inference_mode():
            expected = network(torch.from_numpy(frames)).numpy()
            exact = exact_network(torch.from_numpy(frames).double()).numpy()
        largest = float(np.maximum(largest, np.abs(exported - expected).max()))  # NaN stays NaN
        rounding = max(rounding, float(np.abs(expected - exact).max()))
    allowed = max(TOLERANCE, ROUNDING * rounding)
    if not largest <= allowed:
        raise InputError(f"{path} differs from PyTorch by {largest:.1e}, allowed {allowed:.0e}; do not use the file")
    return largest


if __name__ == "__main__":
    run_main(main)
