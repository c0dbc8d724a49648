"""Command-line options shared by `inference` and `predict`: the network, and how it is run."""

import argparse
from typing import Any

from test_script.predictor.predictor import PUBLISHED_SCALES


def add_model_options(parser: argparse.ArgumentParser, path_required: bool = True) -> None:
    """Add the shared options to a parser; `path_required`: whether --model_path must be given."""
    parser.add_argument(
        "--model_path", required=path_required, metavar="FILE", help="checkpoint, of this repository or published"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        help="for DATransNet checkpoints that do not record it: 256 (NUDT-SIRST) or 512 (IRSTD-1K)",
    )
    parser.add_argument(
        "--flip", action="store_true", help="average with the predictions of the left-right flipped frames"
    )
    parser.add_argument("--msc", action="store_true", help="average over several scales, as published")
    parser.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help=f"the scales of --msc; default {list(PUBLISHED_SCALES)}"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="SIDE",
        help="process larger frames at their own size in overlapping tiles of this side, px",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default auto")
    parser.add_argument(
        "--batch_size", type=int, help="frames processed at a time; default 4, on a CPU enough to fill its cores"
    )
    parser.add_argument("--amp", action="store_true", help="bfloat16 mixed precision, faster on recent GPUs")
    parser.add_argument("--compile", action="store_true", help="compile the network; pays for thousands of frames")


def predictor_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `Predictor`; `--scales` implies `--msc`."""
    scales = tuple(args.scales) if args.scales else PUBLISHED_SCALES if args.msc else (1.0,)
    return {
        "flip": args.flip,
        "scales": scales,
        "tile": args.tile,
        "amp": args.amp,
        "compile": args.compile,
        "batch_size": args.batch_size,
    }
