"""Find targets in your own images or videos; no labels needed.

    python -m test_script.predict --input video.mp4

Without --model_path it runs the weights in weights/. The input is an image, a folder of images (one sequence in numeric
order), a folder of such folders, or a video. Written to the output folder: masks/<sequence>/<frame>.png, detections.csv
and .json, and for each sequence overlays/<sequence>.mp4 (a png for a single image) and contact_sheets/<sequence>.png.
Everything streams: a long video needs no more memory than a short one.
"""

import argparse
import csv
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from test_script.media.frame_sources import LARGEST_FPS, Source, find_sources
from test_script.media.overlay import OverlayVideo, Thumbnails, draw_overlay
from test_script.predictor import FrameResult, Predictor
from test_script.predictor.model_options import add_model_options, predictor_options
from test_script.results.result_files import (
    DETECTION_COLUMNS,
    background_calls,
    detection_row,
    frame_file,
    write_mask,
    write_png,
)
from utils.errors import InputError, run_main
from utils.files import atomic_path

REPOSITORY = Path(__file__).resolve().parents[1]
OUR_WEIGHTS = Path("weights/datransnet_nudt-sirst.pth")
OUR_TRAINING = "DATransNet, trained by us on NUDT-SIRST"


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = parse_arguments(argv)
    sources = find_sources(args.input)
    model_path = args.model_path or our_weights()
    predictor = Predictor.from_checkpoint(
        model_path, args.device, args.image_size, threshold=args.threshold, **predictor_options(args)
    )
    output = Path(args.output_dir)
    start = time.perf_counter()
    with ExitStack() as stack:
        table = DetectionFiles(stack, output)
        bad = []
        frames = sum(
            predict_source(source, predictor, output, table, args.skip_bad, args.fps, bad) for source in sources
        )
        table.finish({"model": str(model_path), "input": str(args.input), "threshold": args.threshold}, frames, bad)
    seconds = time.perf_counter() - start
    print(
        f"{frames} frames in {len(sources)} sequence(s), {table.count} detections"
        + (f", {len(bad)} bad frames skipped" if bad else "")
        + f"; {frames / seconds:.1f} frames per second; results in {output}"
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m test_script.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, default_model=f"{OUR_WEIGHTS} ({OUR_TRAINING})")
    parser.add_argument("--input", required=True, help="image, folder of images, folder of such folders, or video")
    parser.add_argument("--output_dir", default="./predict", help="where to write; default ./predict")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability above which a pixel is target; 0.5")
    parser.add_argument("--fps", type=float, help="frames per second of the overlay; default: the video's, else 25")
    parser.add_argument("--skip_bad", action="store_true", help="name and leave out frames that cannot be read")
    args = parser.parse_args(argv)
    if args.fps is not None and not 0 < args.fps < LARGEST_FPS:
        raise InputError(f"--fps is {args.fps:g}; expected a number above 0, below {LARGEST_FPS}")
    return args


def our_weights() -> Path:
    """The checkpoint that comes with the repository, once said which it is. Raises `InputError` where it is missing."""
    path = REPOSITORY / OUR_WEIGHTS
    if not path.is_file():
        raise InputError(
            f"our weights {path} are missing; fetch them from the repository again, or give another checkpoint with "
            "--model_path"
        )
    print(f"{OUR_WEIGHTS}: {OUR_TRAINING}; for another checkpoint give --model_path")
    return path


class DetectionFiles:
    """detections.csv and detections.json, written as the frames come; they appear when all is done."""

    def __init__(self, stack: ExitStack, output: Path):
        self.count = 0
        self._csv_file = self._open(stack, output / "detections.csv")
        self._json = self._open(stack, output / "detections.json")
        self._csv = csv.writer(self._csv_file, lineterminator="\n")
        self._csv.writerow(DETECTION_COLUMNS)
        self._json.write('{"detections": [')

    def add(self, sequence: str, frame: str, result: FrameResult) -> None:
        """The detections of one frame."""
        for detection in result.detections:
            row = detection_row(sequence, frame, detection)
            self._csv.writerow(row)
            self._json.write(
                (",\n" if self.count else "\n") + json.dumps(dict(zip(DETECTION_COLUMNS, row, strict=True)))
            )
            self.count += 1

    def finish(self, settings: dict, frames: int, bad: list[dict]) -> None:
        """Close the list and add what the run was."""
        rest = json.dumps({**settings, "frames": frames, "skipped": bad}, indent=1)
        self._json.write("],\n" + rest.removeprefix("{\n"))

    @staticmethod
    def _open(stack: ExitStack, path: Path) -> TextIO:
        temporary = stack.enter_context(atomic_path(path))
        return stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))


def predict_source(
    source: Source,
    predictor: Predictor,
    output: Path,
    table: DetectionFiles,
    skip_bad: bool,
    fps: float | None,
    bad: list[dict],
) -> int:
    """Predict one sequence and write its files; returns the number of its frames and adds bad ones to `bad`."""

    def on_bad(name: str, reason: str) -> None:
        if not skip_bad:
            raise InputError(f"{reason} (or leave such frames out with --skip_bad)")
        tqdm.write(f"skipped {source.name}/{name}: {reason}")
        bad.append({"sequence": source.name, "frame": name, "reason": reason})

    names: list[str] = []  # of frames read and not yet predicted: a clip and a batch of them

    def greys():
        for frame in source.frames(on_bad):
            names.append(frame.name)
            yield frame.grey

    count = 0
    thumbnails = Thumbnails()
    suffix = ".png" if source.kind == "image" else ".mp4"
    with ExitStack() as stack:
        overlay_path = stack.enter_context(atomic_path(output / "overlays" / f"{source.name}{suffix}"))
        video = OverlayVideo(overlay_path, fps or source.fps)
        stack.callback(video.close)

        def write(name: str, result: FrameResult) -> None:
            write_mask(frame_file(output / "masks", source.name, name, single=source.kind == "image"), result.mask)
            table.add(source.name, name, result)
            picture = draw_overlay(result.frame, result.mask, result.detections)
            thumbnails.add(name, picture)
            if source.kind == "image":
                write_png(overlay_path, picture)
            else:
                video.add(picture)

        submit = stack.enter_context(background_calls())
        progress = stack.enter_context(tqdm(total=source.length, desc=source.name, unit="frame", disable=None))
        for result in predictor.stream(greys()):
            submit(write, names.pop(0), result)
            count += 1
            progress.update()
        if not count:
            raise InputError(f"no frame of {source.name} can be read; convert it to png or mp4")
    write_png(output / "contact_sheets" / f"{source.name}.png", thumbnails.sheet())
    return count


if __name__ == "__main__":
    run_main(main)
