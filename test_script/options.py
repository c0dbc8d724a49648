"""Options that several commands share: for the data, the network and how it is run, and tracks."""

import argparse
from functools import partial
from typing import Annotated, Any

from istd.datasets import DatasetIndex, open_dataset
from istd.datasets.index import DATA_ROOT_HELP, SPLIT_FOLDER_HELP
from istd.datasets.usable import usable_index
from istd.test_script.predictor import PUBLISHED_SCALES
from istd.test_script.report.frame_pictures import MAX_PICTURES
from istd.utils.amp_names import AMP_HELP, AMP_NAMES
from istd.utils.checkpoint_paths import find_checkpoint, shipped_weights
from istd.utils.config import add_pairs_option, convert
from istd.utils.grey_levels import parse_range
from istd.utils.tracking import TARGET_SPEED

COUNT = Annotated[int, lambda number: number >= 1, "at least 1"]
NATURAL = Annotated[int, lambda number: number >= 0, "at least 0"]
POSITIVE = Annotated[float, lambda number: number > 0, "a number above 0"]
TRACK_OPTIONS = ("min_track", "track_speed")


def add_number(parser: argparse.ArgumentParser, name: str, kind: Any, **settings: Any) -> None:
    """Add the option `name`, whose values are numbers of this `kind`; `convert` raises `InputError` for others."""
    parser.add_argument(name, type=partial(convert, name, annotation=kind), **settings)


def add_device_options(parser: argparse.ArgumentParser, amp: bool = True) -> None:
    """Add --device and, unless `amp` is False, --amp."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, or mps; default auto")
    if amp:
        choices, text = "|".join(AMP_NAMES), f"{AMP_HELP}; default none; --amp alone: auto"
        parser.add_argument("--amp", nargs="?", const="auto", default="none", metavar=choices, help=text)


def add_model_options(parser: argparse.ArgumentParser, path_required: bool = True, several: bool = False) -> None:
    """Add --model_path (--models if `several`) and --weights, required or not, and the options for running networks."""
    add = parser.add_argument
    add_checkpoint_option(parser, "--models" if several else "--model_path", path_required, several)
    sizes = "for DATransNet checkpoints that do not record their image size; default 256, or 512 on IRSTD-1K"
    add("--image_size", type=int, metavar="PX", help=sizes)
    add_code_options(parser)
    add("--flip", action="store_true", help="average with the predictions of the left-right flipped frames")
    add("--msc", action="store_true", help="average over several scales, as published")
    scales = f"the scales of --msc; default {' '.join(map(str, PUBLISHED_SCALES))}"
    add("--scales", type=float, nargs="+", metavar="S", help=scales)
    tile = "process larger frames at their own size in overlapping tiles of this side, px"
    add("--tile", type=int, metavar="SIDE", help=tile)
    add_device_options(parser)
    batch = "frames processed at a time; default 4, on a CPU as many as fill its cores"
    add("--batch_size", type=int, metavar="N", help=batch)
    add("--compile", action="store_true", help="compile the network, which takes minutes; see test_script.benchmark")


def predictor_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_model_options` as arguments of `Predictor`; `--scales` implies `--msc`."""
    scales = tuple(args.scales) if args.scales else PUBLISHED_SCALES if args.msc else (1.0,)
    return {name: getattr(args, name) for name in ("flip", "tile", "amp", "compile", "batch_size")} | {"scales": scales}


def add_checkpoint_option(
    parser: argparse.ArgumentParser, name: str = "--model_path", required: bool = True, several: bool = False
) -> None:
    """Add the option `name` and its alternative --weights, whose values `find_checkpoint` turns into paths.

    The namespace has the value under `name`: a path, a list of paths if `several`, or None.
    """
    text = "checkpoint (ours, published, or safetensors), or the name of weights that ship with this repository: "
    text += ", ".join(shipped_weights())
    shared = {"type": find_checkpoint, "nargs": "+" if several else None, "metavar": "FILE|NAME"}
    names = parser.add_mutually_exclusive_group(required=required)
    names.add_argument(name, **shared, help=text)
    names.add_argument("--weights", **shared, dest=name.removeprefix("--"), help=f"the same as {name}")


def add_code_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --interface and --model_options, for networks from the user's code; see `code_options`."""
    code = "code of your own network, whose weights the checkpoint holds; a checkpoint brings no code"
    parser.add_argument("--model", nargs="+", default=[], metavar="FILE.py:CLASS", help=code)
    takes = "what your network takes and gives, if the checkpoint does not record it: frames, channels, layout, "
    add_pairs_option(parser, "interface", f"{takes}size_multiple, output, main (see docs/your_network.md)", [])
    add_pairs_option(parser, "model_options", "options of the network that the checkpoint does not record", [])


def code_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_code_options` as arguments of `load_model`."""
    options = convert("--model_options", args.model_options, dict)
    return {"code": args.model, "interface": convert("--interface", args.interface, dict), **options}


def add_part_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for where the datasets are, which part is used, and what is left out; see `open_part`."""
    add = parser.add_argument
    add("--data_root", metavar="FOLDER", help=DATA_ROOT_HELP)
    add("--split_folder", metavar="NAME", help=SPLIT_FOLDER_HELP)
    skipped = "leave out files that cannot be used: no image, no mask, or a mask of another size; they are listed"
    add("--skip_unusable", action="store_true", help=skipped)
    add("--split", default="test", metavar="NAME", help="train, test, or another list of the dataset; default test")


def open_part(args: argparse.Namespace) -> DatasetIndex:
    """The dataset of --dataset with the usable files of its part --split; for errors see `usable_index`."""
    index = open_dataset(args.dataset, args.data_root, args.split_folder)
    return usable_index(index, [args.split], args.skip_unusable)


def add_range_option(parser: argparse.ArgumentParser) -> None:
    """Add --range, the range of frames deeper than 8 bits; `args.range` is None or a `RangeRule`."""
    text = (
        "for frames deeper than 8 bits: stored levels that become 0 and 1; or `sequence`: a robust range for every "
        "sequence; or `frame`: from each frame's minimum to its maximum; default as in training, otherwise sequence"
    )
    parser.add_argument("--range", nargs="+", action=RangeAction, metavar=("LOW", "HIGH"), help=text)


class RangeAction(argparse.Action):
    """Read the values of --range."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, parse_range(values))


def add_pictures_option(parser: argparse.ArgumentParser) -> None:
    """Add --report_pictures, the number of frames with a picture beside the report."""
    pictures = "small pictures of at most N frames, which the table of report.html opens; default "
    text = f"{pictures}{MAX_PICTURES}, spread evenly; 0 makes a report in a single file"
    add_number(parser, "--report_pictures", NATURAL, default=MAX_PICTURES, metavar="N", help=text)


def add_track_options(parser: argparse.ArgumentParser) -> None:
    """Add the `TRACK_OPTIONS`."""
    text = "drop tracks of fewer than N detections; default 1, which keeps all"
    add_number(parser, "--min_track", COUNT, default=1, metavar="N", help=text)
    add_track_speed(parser)


def add_track_speed(parser: argparse.ArgumentParser) -> None:
    """Add --track_speed."""
    speed = "typical speed of the targets, px per frame; a second detection lies within 3 times this; default "
    text = f"{speed}{TARGET_SPEED:g}"
    add_number(parser, "--track_speed", POSITIVE, default=TARGET_SPEED, metavar="PX", help=text)
