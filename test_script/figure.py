"""Draw a network at work: a frame with its detections, and beside it the score map.

The input is an image, a video, or a folder of images, and the default network datransnet, as for `predict`. The
strongest detection is magnified in both halves. An output that ends in .png shows the first frame; .webp and .gif are
animated, with the paths of the tracks.

Examples:

    python -m test_script.figure --input docs/example/images/airplane.png --output docs/airplane.png
    python -m test_script.figure --input docs/example/drone.mp4 --frames 120 --every 4 --output docs/drone.webp
"""

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from istd.test_script.media.frame_sources import find_sources
from istd.test_script.media.overlay import Trails, draw_overlay
from istd.test_script.options import COUNT, add_model_options, add_number, add_range_option
from istd.test_script.predict import DEFAULT_WEIGHTS, load_predictor, predict_frames, report_range
from istd.test_script.predictor import FrameResult
from istd.test_script.results.result_files import write_png
from istd.test_script.results.stream_tracks import TrackFilter
from istd.utils.checkpoint_paths import find_checkpoint
from istd.utils.command_line import command_parser
from istd.utils.drawing import enlarge, grey_to_rgb
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path
from istd.utils.images import window_around
from istd.utils.names import counted
from istd.utils.tracking import TARGET_SPEED

ANIMATED = (".webp", ".gif")
GAP = 8  # px between the halves
MAGNIFIED_SIDE = 21  # px of the frame
MAX_MAGNIFICATION = 4  # of the magnified part, relative to the enlarged frame
FRAME_COLOR = (255, 255, 255)
WEBP_QUALITY = 70


def main(argv: list[str] | None = None) -> None:
    """Write the picture of --input to --output."""
    args = parse_arguments(argv)
    (source, *others) = find_sources(args.input)
    if others:
        raise InputError(f"--input {args.input} has {len(others) + 1} sequences; give the folder of a single sequence")
    predictor = load_predictor(args, [source])
    network, animated = predictor.model, args.output.suffix in ANIMATED
    count = args.frames if animated else 1
    further = network.frame_stride * (network.num_frames - 1 - network.target_index)  # of the last clip
    greys = (grey for _, grey in islice(source.frames(refuse), count + further))
    trails, pictures = Trails(), []
    tracker = TrackFilter(1, TARGET_SPEED)
    for number, result in enumerate(islice(predict_frames(source, predictor, greys), count)):
        for _, tracked, tracks in tracker.add(str(number), result):
            paths = trails.add(tracked.detections, tracks)
            if number % args.every == 0:
                pictures.append(picture_of(tracked, paths))
    if animated:
        write_animation(args.output, pictures, args.every / source.fps)
    else:
        write_png(args.output, pictures[0])
    report_range(source, args.range)
    frames = counted(number + 1, "frame")
    print(f"{len(pictures)} of {frames} of {args.input} drawn by {args.model_path.name}: {args.output}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.figure", __doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="PATH", help="image, video, or folder of images")
    picture = "the picture: .png, or .webp or .gif, which are animated"
    add("--output", type=Path, required=True, metavar="FILE", help=picture)
    add_model_options(parser, path_required=False)
    target = "pixels of a higher probability are target; default 0.5"
    add("--threshold", type=float, default=0.5, metavar="P", help=target)
    add_range_option(parser)
    add_number(parser, "--frames", COUNT, default=90, metavar="N", help="first frames of an animation; default 90")
    add_number(parser, "--every", COUNT, default=3, metavar="N", help="show every Nth of them; default 3")
    args = parser.parse_args(argv)
    if args.output.suffix not in (".png", *ANIMATED):
        raise InputError(f"--output is {args.output}; expected a name that ends in .png, .webp or .gif")
    args.model_path = args.model_path or find_checkpoint(DEFAULT_WEIGHTS)
    return args


def refuse(name: str, reason: str) -> None:
    """Raise `InputError` for a frame that cannot be read."""
    raise InputError(reason)


def picture_of(result: FrameResult, paths: list[np.ndarray]) -> np.ndarray:
    """Detections and score map side by side, RGB uint8, with the strongest detection magnified in both."""
    left = draw_overlay(result.frame, result.mask, result.detections, paths)
    factor = left.shape[0] // result.frame.shape[0]
    levels = np.rint(result.probability * 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    right = enlarge(colors, factor)
    if result.detections:
        strongest = max(result.detections, key=lambda detection: (detection.peak_score, detection.area))
        for half, pixels in ((left, grey_to_rgb(result.frame)), (right, colors)):
            add_magnifier(half, pixels, (strongest.x, strongest.y), factor)
    return np.hstack([left, np.full((left.shape[0], GAP, 3), 255, np.uint8), right])


def add_magnifier(half: np.ndarray, pixels: np.ndarray, place: tuple[float, float], factor: int) -> None:
    """Draw the surroundings of `place` (x, y) in `pixels` [H, W, 3] into the lower corner of `half` further from it.

    half: a picture of the size of `pixels` enlarged by `factor`.
    """
    height, width = pixels.shape[:2]
    side = min(MAGNIFIED_SIDE, height, width)
    fitting = min(half.shape[:2]) // 2 // (side * factor)  # into a quarter of the half
    magnification = max(1, min(MAX_MAGNIFICATION, fitting))
    part = enlarge(pixels[window_around(place[::-1], (height, width), side)], factor * magnification)
    at = 0 if place[0] >= width / 2 else half.shape[1] - part.shape[1]
    half[-part.shape[0] :, at : at + part.shape[1]] = part
    cv2.rectangle(
        half, (at, half.shape[0] - part.shape[0]), (at + part.shape[1] - 1, half.shape[0] - 1), FRAME_COLOR, 2
    )


def write_animation(path: Path, pictures: list[np.ndarray], seconds: float) -> None:
    """Write RGB pictures as an endless animation with `seconds` per picture."""
    first, *others = (Image.fromarray(picture) for picture in pictures)
    with atomic_path(path) as temporary:
        first.save(
            temporary, format=path.suffix[1:], save_all=True, append_images=others, duration=round(seconds * 1000),
            loop=0, quality=WEBP_QUALITY, method=6,
        )  # fmt: skip


if __name__ == "__main__":
    run_main(main)
