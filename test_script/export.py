"""Write a network as ONNX, and check it against PyTorch in onnxruntime.

    python -m test_script.export --model_path checkpoint_best.pth --output model.onnx --size 256 256

The file takes `clip`, float32 [batch, T, C, H, W], prepared as in training (DATransNet: grey in 0..1; SGMP-UNet: grey
replicated to RGB, ImageNet mean and std; of the preset contrast, the `local_contrast` of datasets/transforms.py instead
of grey), and gives `probability`, float32 [batch, 1, H, W], of frame T // 2. The batch is dynamic; with --dynamic,
height and width are too (multiples of 32; DATransNet only). Needs torch 2.8, onnx, onnxruntime and onnxscript.
"""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

from istd.models import load_model
from istd.test_script.options import add_checkpoint_option, add_code_options, code_options, command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path, check_writable

NEEDED = ("onnx", "onnxruntime", "onnxscript")
OLDEST_TORCH = (2, 8)  # 2.6 does not translate every network; 2.7 was not tried
TOLERANCE = 1e-3  # of the probability
ROUNDING = 4
OPSET = 18
CHECK_BATCH = 3  # another one than the example's, to see that the batch is dynamic


def main(argv: list[str] | None = None) -> None:
    """Export a checkpoint's network to ONNX and check the file."""
    parser = command_parser("export", __doc__)
    add = parser.add_argument
    add_checkpoint_option(parser)
    add("--output", required=True, help="file to write, such as model.onnx")
    add("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help="of the frames; default 256 256")
    add("--dynamic", action="store_true", help="let height and width vary")
    add_code_options(parser)
    parser.add_argument("--image_size", dest="model_options", action="append", type="image_size={}".format)
    args = parser.parse_args(argv)
    missing = " ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)
    if missing:
        raise InputError(f"export needs the packages {missing}; install them: pip install {missing}")
    model = load_model(args.model_path, **code_options(args))
    size = tuple(args.size)
    if any(side < 1 or side % model.size_multiple for side in size):
        raise InputError(f"size {size[0]} {size[1]} given; expected multiples of {model.size_multiple}")
    if args.dynamic and not model.any_size_onnx:
        raise InputError(f"{model.name} can be exported for one size only; leave --dynamic out and give --size")
    check_writable(args.output)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        found = f"export needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, this is {torch.__version__}"
        raise InputError(f"{found}; update it: pip install --upgrade torch torchvision")
    export(model, Path(args.output), size, args.dynamic)
    difference = check(model, Path(args.output), size, args.dynamic)
    print(f"{args.output}: largest difference from PyTorch {difference:.1e}")


def export(model: nn.Module, path: Path, size: tuple[int, int], dynamic: bool) -> None:
    """Write the network to `path`, for frames of `size` (H, W), or of any size with `dynamic`."""
    axes = dict.fromkeys((0, 3, 4) if dynamic else (0,), torch.export.Dim.DYNAMIC)
    clip = torch.rand(2, model.num_frames, model.in_channels, *size)
    network = nn.Sequential(model, nn.Sigmoid()).eval()
    program = torch.onnx.export(
        torch.export.export(network, (clip,), dynamic_shapes=(axes,), strict=False),
        input_names=["clip"],
        output_names=["probability"],
        opset_version=OPSET,
        optimize=False,  # onnxruntime does it on loading; here it takes minutes
        verbose=False,
    )
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)


def check(model: nn.Module, path: Path, size: tuple[int, int], dynamic: bool) -> float:
    """Largest difference of a probability between the file in onnxruntime and the network in PyTorch.

    Tried with another batch size, and with `dynamic` another frame size, than the file was made with. Raises
    `InputError` above `TOLERANCE`, or, where weights amplify rounding, above `ROUNDING` times what float32 in PyTorch
    itself is away from float64.
    """
    import onnxruntime  # optional

    onnxruntime.set_default_logger_severity(3)  # it warns of every node that it cannot fold
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes = [size, tuple(side + model.size_multiple for side in size)] if dynamic else [size]
    random = np.random.default_rng(0)
    exact_model = copy.deepcopy(model).double()
    largest, own_error = 0.0, 0.0
    for height, width in sizes:
        clip = random.random((CHECK_BATCH, model.num_frames, model.in_channels, height, width), dtype=np.float32)
        (ours,) = session.run(None, {"clip": clip})
        with torch.inference_mode():
            theirs = model(torch.from_numpy(clip)).sigmoid().numpy()
            exact = exact_model(torch.from_numpy(clip).double()).sigmoid().numpy()
        largest = float(np.maximum(largest, np.abs(ours - theirs).max()))  # NaN stays NaN
        own_error = max(own_error, float(np.abs(theirs - exact).max()))
    allowed = max(TOLERANCE, ROUNDING * own_error)
    if not largest <= allowed:
        raise InputError(f"{path} differs from PyTorch by {largest:.1e}, allowed {allowed:.0e}; do not use the file")
    return largest


if __name__ == "__main__":
    run_main(main)
