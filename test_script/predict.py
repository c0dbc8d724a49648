"""Detect targets in your own images, videos, and camera streams; no labels are needed.

    python -m test_script.predict --input video.mp4
    ffmpeg -i rtsp://camera/stream -f image2pipe -c:v png - | python -m test_script.predict --input -

The input is an image, a folder of images (one sequence, in numeric order), a folder of such folders, or a video. Live
inputs are -, PNG or JPEG images one after the other on standard input, and the number, device, or URL of a camera that
OpenCV opens. --weights takes the name of a network in weights/, such as datransnet, which is the default, or the file
of any other checkpoint.

The output folder receives masks/<sequence>/<frame>.png, detections.csv and .json, tracks.csv (the detections linked
into tracks over the frames), and for each sequence overlays/<sequence>.mp4 (.png for a single image) and
contact_sheets/<sequence>.png. --min_track N leaves the detections of shorter tracks out of all of these; a frame is
then written once each track in it is known to be long enough, or to have ended.

Frames are streamed: a long input needs no more memory than a short one. A live input is processed frame by frame, and
latency.csv gives the milliseconds from reading a frame to its detections. A network of T frames needs (T - 1) // 2
further frames for each one. Ctrl-C ends a live input, and everything is written. A network that is slower than the
camera falls behind; let ffmpeg lower the frame rate (-r).
"""

import argparse
import csv
import json
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from istd.test_script.media.frame_sources import LARGEST_FPS, Source, find_sources, public_address
from istd.test_script.media.overlay import OverlayVideo, Thumbnails, Trails, draw_overlay
from istd.test_script.options import (
    TRACK_OPTIONS,
    add_model_options,
    add_range_option,
    add_track_options,
    check_track_options,
    code_options,
    command_parser,
    predictor_options,
)
from istd.test_script.predictor import FrameResult, Predictor
from istd.test_script.predictor.detections import DETECTION_COLUMNS, detection_row
from istd.test_script.results.latency import Latency
from istd.test_script.results.result_files import background_calls, frame_file, write_mask, write_png
from istd.test_script.results.tracks import TRACK_COLUMNS, TrackedResult, TrackFilter, track_row
from istd.utils.checkpoint_files import find_checkpoint, shipped_weights
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path, open_atomic
from istd.utils.grey_levels import describe_range, range_value

DEFAULT_WEIGHTS = "datransnet"
MEMORY_ADVICE = "lower --batch_size, or give --tile"  # of `run_main`


def main(argv: list[str] | None = None) -> None:
    """Predict the sequences of --input and write the results to --output_dir."""
    args = parse_arguments(argv)
    sources = find_sources(args.input)
    if args.min_track > 1 and sources[0].kind == "image":
        raise InputError(f"--min_track {args.min_track}: {args.input} is a single image; give a sequence")
    options = {name: getattr(args, name) for name in ("threshold", "deterministic")} | {"grey_range": args.range}
    options |= predictor_options(args)
    predictor = Predictor.from_checkpoint(args.model_path, args.device, args.image_size, code_options(args), **options)
    for source in sources:
        source.scale.rule = predictor.grey_range
    output = Path(args.output_dir)
    start = time.perf_counter()
    bad: list[dict] = []
    with ExitStack() as stack:
        names = ("detections.csv", "detections.json", "tracks.csv")
        files = DetectionFiles(*(stack.enter_context(open_atomic(output / name)) for name in names))
        frames = sum(predict_source(source, predictor, files, bad, args) for source in sources)
        settings = {name: getattr(args, name) for name in ("threshold", *TRACK_OPTIONS)}
        run = {
            "model": str(args.model_path),
            "input": public_address(args.input),
            "range": range_value(predictor.grey_range),
        }
        run["ranges"] = {source.name: source.scale.range for source in sources if source.scale.range}
        files.finish(run | settings | {"frames": frames, "skipped": bad})
    seconds = time.perf_counter() - start
    print(
        f"{frames} frames in {len(sources)} sequence(s), {files.count} detections"
        + (f", {len(bad)} bad frames skipped" if bad else "")
        + f"; {frames / seconds:.1f} frames per second; results in {output}"
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("predict", __doc__)
    add = parser.add_argument
    add(
        "--input", required=True, help="image, folder of images, folder of such folders, video, camera, or - for a pipe"
    )
    add_model_options(parser, path_required=False)
    add("--output_dir", default="./predict", help="output folder; default ./predict")
    add("--threshold", type=float, default=0.5, help="probability threshold; default 0.5")
    add_track_options(parser)
    add_range_option(parser)
    add("--fps", type=float, help="frame rate of the overlay video; default: the input's, else 25")
    add("--skip_bad", action="store_true", help="report and skip frames that cannot be read")
    same_bits = "bit-identical results for a single image on any number of cores (slower)"
    add("--deterministic", action="store_true", help=same_bits)
    args = parser.parse_args(argv)
    check_track_options(args.min_track, args.track_speed)
    if args.fps is not None and not 0 < args.fps < LARGEST_FPS:
        raise InputError(f"--fps is {args.fps:g}; expected a number above 0, below {LARGEST_FPS}")
    if args.model_path is None:
        args.model_path = find_checkpoint(DEFAULT_WEIGHTS)
        print(f"network: weights/{args.model_path.name} (of {', '.join(shipped_weights())}; choose with --weights)")
    return args


class DetectionFiles:
    """detections.csv and .json and tracks.csv, written frame by frame; the files appear when the run is complete."""

    def __init__(self, table: TextIO, objects: TextIO, tracks: TextIO):
        self.count = 0
        self._csv, self._json = csv.writer(table, lineterminator="\n"), objects
        self._tracks = csv.writer(tracks, lineterminator="\n")
        self._csv.writerow(DETECTION_COLUMNS)
        self._tracks.writerow(TRACK_COLUMNS)
        self._json.write('{"detections": [')

    def add(self, row: list, track: int) -> None:
        """Append a row of `detection_row`, and the number of its track."""
        self._csv.writerow(row)
        self._tracks.writerow(track_row(row, track))
        self._json.write((",\n" if self.count else "\n") + json.dumps(dict(zip(DETECTION_COLUMNS, row, strict=True))))
        self.count += 1

    def finish(self, settings: dict) -> None:
        """Close the list and append the settings of the run."""
        self._json.write("],\n" + json.dumps(settings, indent=1).removeprefix("{\n"))


def predict_source(
    source: Source, predictor: Predictor, files: DetectionFiles, bad: list[dict], args: argparse.Namespace
) -> int:
    """Predict one sequence and write its files; returns the number of frames and appends unreadable ones to `bad`."""
    single, live = source.kind == "image", source.kind == "live"

    def on_bad(name: str, reason: str) -> None:
        if not args.skip_bad and not live:
            raise InputError(f"{reason} (--skip_bad leaves such frames out)")
        tqdm.write(f"skipped {source.name}/{name}: {reason}")
        bad.append({"sequence": source.name, "frame": name, "reason": reason})

    read: deque[tuple[str, float]] = deque()  # names of the frames not predicted yet, and when they were read
    arrivals: deque[float] = deque()  # of the frames not given out by the tracker yet

    def greys():
        for name, grey in source.frames(on_bad):
            read.append((name, time.perf_counter()))
            yield grey

    output, count, thumbnails, trails = Path(args.output_dir), 0, Thumbnails(), Trails()
    tracker = TrackFilter(args.min_track, args.track_speed)
    overlay = output / "overlays" / f"{source.name}{'.png' if single else '.mp4'}"
    with ExitStack() as stack:
        overlay_path = stack.enter_context(atomic_path(overlay))
        video = OverlayVideo(overlay_path, args.fps or source.fps)
        stack.callback(video.close)
        latency = Latency(stack.enter_context(open_atomic(output / "latency.csv"))) if live else None

        def write(name: str, result: FrameResult, tracks: list[int]) -> None:
            write_mask(frame_file(output / "masks", None if single else source.name, name), result.mask)
            for found, track in zip(result.detections, tracks, strict=True):
                files.add(detection_row(source.name, name, found), track)
            picture = draw_overlay(result.frame, result.mask, result.detections, trails.add(result.detections, tracks))
            thumbnails.add(name, picture)
            if single:
                write_png(overlay_path, picture)
            else:
                video.add(picture)

        submit = stack.enter_context(background_calls())
        progress = stack.enter_context(tqdm(total=source.length, desc=source.name, unit="frame", disable=None))

        def give_out(frames: Iterable[TrackedResult]) -> None:
            nonlocal count
            for tracked in frames:
                seconds = time.perf_counter() - arrivals.popleft()
                if live:
                    latency.add(source.name, tracked.name, seconds)
                submit(write, *tracked)
                progress.update()
                count += 1

        try:
            for result in predictor.stream(greys(), live=live):
                name, arrival = read.popleft()
                arrivals.append(arrival)
                give_out(tracker.add(name, result))
        except KeyboardInterrupt:
            if not live:
                raise
            tqdm.write(f"{source.name}: interrupted; what was found until now is written")
        give_out(tracker.finish())
        if source.scale.range:
            tqdm.write(f"{source.name}: {describe_range(source.scale)}")
        if not count:
            raise InputError(f"no frame of {source.name} can be read; give an image or a video that OpenCV can decode")
    write_png(output / "contact_sheets" / f"{source.name}.png", thumbnails.sheet())
    if live:
        print(latency.summary())
    return count


if __name__ == "__main__":
    run_main(main)
