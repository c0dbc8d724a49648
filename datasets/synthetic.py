"""Render infrared sequences with targets to train on: `python -m datasets.synthetic --output DIR`."""

import argparse

from datasets.backgrounds import CLUTTERS
from datasets.rendered_dataset import DEMO, DatasetSettings, render_dataset
from utils.errors import run_main


def main(argv: list[str] | None = None) -> None:
    """Render a dataset from the command line."""
    parser = argparse.ArgumentParser(prog="python -m datasets.synthetic", description=__doc__)
    parser.add_argument("--output", required=True, help="new folder")
    parser.add_argument("--sequences", type=int, default=DEMO.sequences, metavar="N")
    parser.add_argument("--frames", type=int, default=DEMO.frames, metavar="T", help="frames per sequence")
    parser.add_argument("--size", type=int, nargs=2, default=DEMO.size, metavar=("H", "W"))
    parser.add_argument("--snr", type=float, nargs=2, default=DEMO.snr, metavar=("A", "B"))
    parser.add_argument("--speed", type=float, nargs=2, default=DEMO.speed, metavar=("A", "B"), help="pixels a frame")
    parser.add_argument("--targets", type=int, nargs=2, default=DEMO.targets, metavar=("A", "B"), help="per sequence")
    text = "mixed: cloud, sea and ground in turn; varied: every sequence has its own scene, target sizes and sensor"
    parser.add_argument("--clutter", choices=(*CLUTTERS, "mixed", "varied"), default=DEMO.clutter, help=text)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=DEMO.bits)
    parser.add_argument("--val_share", type=float, default=DEMO.val_share, help="share of the sequences in val.txt")
    parser.add_argument("--seed", type=int, default=DEMO.seed)
    values = vars(parser.parse_args(argv))
    output = values.pop("output")
    settings = DatasetSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    render_dataset(output, settings)
    print(f"{settings.sequences} sequences of {settings.frames} frames in {output}; use them with --dataset {output}")


if __name__ == "__main__":
    run_main(main)
