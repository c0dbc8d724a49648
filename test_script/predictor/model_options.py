"""The command-line options that `inference` and `predict` share: which network, and how it is run."""

import argparse
from typing import Any

from test_script.predictor.predictor import PUBLISHED_SCALES
from utils.distributed import AMP_HELP, AMP_NAMES


def add_model_options(parser: argparse.ArgumentParser, default_model: str | None = None) -> None:
    """Add the shared options to a parser; `default_model` says what is run without --model_path, None: nothing is."""
    parser.add_argument(
        "--model_path",
        required=default_model is None,
        help="checkpoint file, ours or a published one" + (f"; default {default_model}" if default_model else ""),
    )
    parser.add_argument(
        "--image_size", type=int, help="DATransNet files that do not say it: 256 (NUDT-SIRST) or 512 (IRSTD-1K)"
    )
    parser.add_argument("--flip", action="store_true", help="average with the left-right flipped frames")
    parser.add_argument("--msc", action="store_true", help="average over several scales, as published")
    parser.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help=f"the scales of --msc; default {list(PUBLISHED_SCALES)}"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="SIDE",
        help="work through larger frames at their own size in overlapping tiles of this side, px",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default auto")
    parser.add_argument("--batch_size", type=int, default=4, help="frames worked on at a time; default 4")
    parser.add_argument(
        "--amp", nargs="?", const="bf16", default="none", metavar="|".join(AMP_NAMES), help=f"{AMP_HELP}; default none"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network; pays for thousands of frames")


def predictor_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options as `Predictor` takes them; `--scales` alone means `--msc` with these."""
    scales = tuple(args.scales) if args.scales else PUBLISHED_SCALES if args.msc else (1.0,)
    return {
        "flip": args.flip,
        "scales": scales,
        "tile": args.tile,
        "amp": args.amp,
        "compile": args.compile,
        "batch_size": args.batch_size,
    }
