"""Render infrared sequences with targets of known position and SNR, to train on.

The folder receives images/, masks/, targets.csv (position and SNR of every target in every frame), train.txt, and
val.txt. The SNR is the distance of a target's peak from the local mean, over the local standard deviation.

Examples:

    python -m datasets.synthetic --output data/dim --snr 1.5 3 --size 256 256
    python -m datasets.synthetic --output data/varied --clutter varied --frames 1 --sequences 1200 --size 256 256
"""

import math
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.contrib.concurrent import thread_map

from istd.datasets.backgrounds import CLUTTERS
from istd.datasets.rendering import RenderConfig, frame_name, render_sequence
from istd.datasets.targets import TARGET_TABLE, TargetRow, write_targets
from istd.datasets.varied_scenes import render_varied_sequence
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import new_folder, write_json
from istd.utils.images import encode_png
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process

GOLDEN_RATIO = 0.6180339887  # steps of this spread any number of sequences evenly over a range
PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1)  # noise hardly compresses, so more costs time alone

DEMO = RenderConfig()


def render_dataset(output: str | Path, settings: RenderConfig) -> None:
    """Write images/SEQUENCE/FRAME.png, masks/, train.txt, val.txt, targets.csv and settings.json into a new folder.

    The folder appears when it is complete. The last `val_share` of the sequences are for validation (at least one of
    several if it is above 0). A sequence depends on the seed, its number, and the settings alone. Raises `InputError`
    where the folder exists and is not empty, or a setting makes no sense.
    """
    _check(settings)
    names = [f"seq_{number:03d}" for number in range(settings.sequences)]
    with new_folder(output) as folder:
        render = partial(_render, folder, settings)
        parts = thread_map(
            render, range(len(names)), names, max_workers=cores_of_process(), desc="rendering", disable=None
        )
        write_targets(folder / TARGET_TABLE, chain(*parts))
        min_val = int(settings.val_share > 0 and settings.sequences > 1)
        trained = settings.sequences - max(min_val, round(settings.val_share * settings.sequences))
        for part, chosen in (("train", names[:trained]), ("val", names[trained:])):
            (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in chosen))
        write_json(folder / "settings.json", asdict(settings), indent=2)


def main(argv: list[str] | None = None) -> None:
    """Render a dataset from the command line."""
    parser = command_parser("datasets.synthetic", __doc__)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder of the dataset")

    def add(name: str, text: str, **options: Any) -> None:
        default = getattr(DEMO, name)
        written = " ".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(f"--{name}", default=default, help=f"{text}; default {written}", **options)

    low_high = ("LOW", "HIGH")
    add("sequences", "number of sequences", type=int, metavar="N")
    add("frames", "frames of each sequence", type=int, metavar="T")
    add("size", "height and width of the frames, px", type=int, nargs=2, metavar=("H", "W"))
    snr = "range of the targets' SNR (varied: of the lowest in a sequence), over which the sequences spread"
    add("snr", snr, type=float, nargs=2, metavar=low_high)
    add("speed", "range of the targets' speed, px per frame", type=float, nargs=2, metavar=low_high)
    add("targets", "fewest and most targets of a sequence", type=int, nargs=2, metavar=low_high)
    scenes = "mixed: cloud, sea and ground in turn; varied: scene, target sizes and sensor differ in every sequence"
    add("clutter", scenes, choices=(*CLUTTERS, "mixed", "varied"))
    add("bits", "bits of a pixel", type=int, choices=(8, 16))
    add("val_share", "share of the sequences in val.txt", type=float, metavar="SHARE")
    add("seed", "seed of the random numbers", type=int, metavar="N")
    values = vars(parser.parse_args(argv))
    output = values.pop("output")
    settings = RenderConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    render_dataset(output, settings)
    rendered = f"{counted(settings.sequences, 'sequence')} of {counted(settings.frames, 'frame')}"
    print(f"{rendered} in {output}; use with --dataset {output}")


def ensure_demo(root: Path) -> None:
    """Render the demo dataset into `root` if it is not there, and say so."""
    if root.is_dir():
        return
    print(f"demo: rendering {DEMO.sequences} sequences of {DEMO.frames} frames into {root} (a few seconds, once)")
    try:
        render_dataset(root, DEMO)
    except InputError:
        if not root.is_dir():  # else another process of the same run was first
            raise


def golden_share(number: int) -> float:
    """A share in 0..1 that spreads any number of sequences evenly over a range."""
    return (number * GOLDEN_RATIO + 0.5) % 1


def _render(folder: Path, settings: RenderConfig, number: int, name: str) -> list[TargetRow]:
    random = np.random.default_rng([settings.seed, number])
    snr = settings.snr[0] * (settings.snr[1] / settings.snr[0]) ** golden_share(number)
    if settings.clutter == "mixed":
        settings = replace(settings, clutter=CLUTTERS[number % len(CLUTTERS)])
    render = render_varied_sequence if settings.clutter == "varied" else render_sequence
    rendered = render(name, settings, snr, random)
    depth = np.uint8 if settings.bits == 8 else np.uint16
    frames = np.rint(rendered.frames * np.iinfo(depth).max).astype(depth)
    for kind, images in (("images", frames), ("masks", rendered.masks.astype(np.uint8) * 255)):
        (folder / kind / name).mkdir(parents=True)
        for index, image in enumerate(images):
            (folder / kind / name / f"{frame_name(index)}.png").write_bytes(encode_png(image, PNG_OPTIONS))
    return rendered.rows


def _check(settings: RenderConfig) -> None:
    for name in ("snr", "speed", "targets"):
        low, high = getattr(settings, name)
        if not 0 <= low <= high < math.inf or (name == "snr" and low <= 0):
            expected = "above 0" if name == "snr" else "0 or above"
            raise InputError(f"--{name} {low} {high}; expected two numbers, the lower first, {expected}")
    if min(settings.sequences, settings.frames) < 1 or min(settings.size) < 32:
        raise InputError("expected at least 1 sequence, 1 frame and a size of 32 x 32")
    if not 0 <= settings.val_share <= 1:
        raise InputError(f"--val_share {settings.val_share}; expected a share in 0..1")
    if settings.seed < 0:
        raise InputError(f"--seed {settings.seed}; expected 0 or above")


if __name__ == "__main__":
    run_main(main)
