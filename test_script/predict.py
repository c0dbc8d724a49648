"""Detect targets in your own images, videos, and camera streams; no labels are needed.

The input is an image, a folder of images (a sequence in numeric order, or unrelated images), a folder of such folders,
or a video. A multi-page TIFF file or a .npy array [N, H, W] is a sequence, alone or in a folder. Live inputs are `-`,
PNG or JPEG images one after the other on standard input, and the number, device, or URL of a camera that OpenCV opens.
Without --weights or --model_path, the network is the shipped datransnet.

The output folder receives detections.csv and .json, detections_coco.json (the list that pycocotools' `loadRes` takes;
images are numbered from 1 in the order they are read), tracks.csv (the detections linked into tracks),
masks/<sequence>/<frame>.png, and for each sequence overlays/<sequence>.mp4, which browsers play, and
contact_sheets/<sequence>.png. Unrelated images have no tracks, and each has a picture overlays/<image>.png
(overlays/<folder>/<image>.png if the input is several folders). An earlier prediction in that folder is removed.

Frames are streamed: a long input needs no more memory than a short one. A live input is processed frame by frame, and
latency.csv has the milliseconds from reading a frame to its detections. A network of T frames needs frame_stride *
((T - 1) // 2) further frames for the result of a frame, and none if it is causal. Ctrl-C ends a live input, and all
results are written. A network that is slower than the camera falls behind; let ffmpeg lower the frame rate (-r).

An error or Ctrl-C within any other input keeps the results until then, too. detections.json has the reason as
`unfinished`, and the next run starts from the beginning.

Examples:

    python -m test_script.predict --input video.mp4
    python -m test_script.predict --input folder --weights sgmp_unet_small --threshold 0.3 --min_track 3
    ffmpeg -i rtsp://camera/stream -f image2pipe -c:v png - | python -m test_script.predict --input -
"""

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import istd  # whose names are imported at their first use: the help need not wait for PyTorch
from istd.test_script.media.frame_sources import MAX_FPS, UNRELATED, Source, find_sources
from istd.test_script.options import (
    TRACK_OPTIONS,
    add_model_options,
    add_range_option,
    add_track_options,
    code_options,
    predictor_options,
)
from istd.test_script.predictor import FrameResult
from istd.test_script.results.prediction_folder import RESULTS, DetectionFiles, Latency, prediction_folder
from istd.test_script.results.stream_tracks import TrackedResult, TrackFilter
from istd.test_script.sequence_files import sequence_writer
from istd.utils.checkpoint_paths import find_checkpoint, shipped_weights
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import open_atomic
from istd.utils.grey_levels import SEQUENCE, RangeRule, describe_range, range_value
from istd.utils.names import counted, folder_name, printable, public_address
from istd.utils.progress import Progress

DEFAULT_WEIGHTS = "datransnet"
MEMORY_ADVICE = "lower --batch_size, or give --tile"  # of `run_main`


def main(argv: list[str] | None = None) -> None:
    """Predict the sequences of --input and write the results to --output_dir."""
    args = parse_arguments(argv)
    earlier = [Path(args.output_dir, name).resolve() for name in RESULTS] if args.output_dir else []
    sources = find_sources(args.input, args.sequence, earlier)
    if args.min_track > 1 and (unrelated := [source.name for source in sources if source.kind in UNRELATED]):
        expected = "give a video or the frames of a sequence (--folder_of frames)"
        raise InputError(f"--min_track {args.min_track}: {unrelated[0]} is no sequence; {expected}")
    predictor = load_predictor(args, sources, deterministic=args.deterministic)
    output = Path(args.output_dir) if args.output_dir else default_output(sources, args.input)
    if any(Path(args.input).resolve().is_relative_to((output / name).resolve()) for name in RESULTS):
        raise InputError(f"--input {args.input} is a result in {output}, which would be removed; choose --output_dir")
    run = {name: getattr(args, name) for name in ("threshold", *TRACK_OPTIONS)}
    run |= {"model": str(args.model_path), "input": public_address(args.input)}
    run["range"] = range_value(predictor.grey_range)
    start, interrupted, late = time.perf_counter(), "", None
    bad: list[dict] = []
    with prediction_folder(output, run) as tables:
        try:
            for source in sources:
                predict_source(source, predictor, tables, bad, output, args, len(sources) > 1)
        except (Exception, KeyboardInterrupt) as error:
            if not tables.frames:
                raise
            interrupted = f"{source.name}: interrupted; "
            if source.kind != "live" or type(error) is not KeyboardInterrupt:  # by which a live input ends
                late = error
        ranges = {source.name: source.scale.range for source in sources if source.scale.range}
        tables.facts = {"frames": tables.frames, "skipped": bad, "ranges": ranges}
        if late is not None:
            tables.facts["unfinished"] = str(late) or "interrupted"
    seconds = time.perf_counter() - start
    print(
        interrupted
        + counted(tables.frames, "frame")
        + (f" in {len(sources)} sequences" if len(sources) > 1 and not interrupted else "")
        + f", {counted(tables.count, 'detection')}"
        + (f", {counted(len(bad), 'bad frame')} skipped" if bad else "")
        + f"; {tables.frames / seconds:.1f} frames per second; results in {output}"
    )
    if late is not None:
        raise late


def default_output(sources: list[Source], address: str) -> Path:
    """predict/NAME, after the sequence, or after the folder that holds several."""
    return Path("predict") / (sources[0].name if len(sources) == 1 else folder_name(Path(address).resolve().name))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.predict", __doc__)
    add = parser.add_argument
    source = "image, folder of images, folder of such folders, video, camera, or - for a pipe"
    add("--input", required=True, metavar="PATH|URL|-", help=source)
    add_model_options(parser, path_required=False)
    folder = "where to write; earlier predictions there are replaced; default predict/INPUT"
    add("--output_dir", metavar="DIR", help=folder)
    folder = "frames of a sequence, or unrelated images; default: as their sizes and the likeness of neighbours suggest"
    add("--folder_of", dest="sequence", choices=("frames", "images"), help=f"what a folder contains: {folder}")
    target = "pixels of a higher probability are target; default 0.5"
    add("--threshold", type=float, default=0.5, metavar="P", help=target)
    add_track_options(parser)
    add_range_option(parser)
    rate = "frame rate of the overlay video; default: the input's rate, or 25"
    add("--fps", type=float, metavar="RATE", help=rate)
    add("--skip_bad", action="store_true", help="report and skip frames that cannot be read")
    same_bits = "the same result for a single image to the last bit on any number of cores (slower)"
    add("--deterministic", action="store_true", help=same_bits)
    args = parser.parse_args(argv)
    if args.fps is not None and not 0 < args.fps < MAX_FPS:
        raise InputError(f"--fps is {args.fps:g}; expected a number above 0, below {MAX_FPS}")
    if args.model_path is None:
        args.model_path = find_checkpoint(DEFAULT_WEIGHTS)
        print(f"network: weights/{args.model_path.name} (of {', '.join(shipped_weights())}; choose with --weights)")
    return args


def load_predictor(args: argparse.Namespace, sources: list[Source], **options: Any) -> "istd.Predictor":
    """The predictor of the command line, with further `options`; the `sources` get its rule for raw frames."""
    options |= {"threshold": args.threshold, "grey_range": args.range, **predictor_options(args)}
    code = code_options(args)
    predictor = istd.Predictor.from_checkpoint(args.model_path, args.device, args.image_size, code, **options)
    for source in sources:
        source.scale.rule = predictor.grey_range
    return predictor


def predict_source(
    source: Source,
    predictor: "istd.Predictor",
    tables: DetectionFiles,
    bad: list[dict],
    output: Path,
    args: argparse.Namespace,
    subfolders: bool,
) -> None:
    """Predict a sequence and write its files; unreadable frames are appended to `bad`.

    After an error or an interruption, the frames predicted until then are written before it is raised.
    """
    live, count, late = source.kind == "live", 0, None
    skipped = 0  # frames since the last that could be read
    # names of the frames not predicted yet, when they were read, and how many frames were skipped before
    waiting: deque[tuple[str, float, int]] = deque()
    arrivals: deque[float] = deque()  # of the predicted frames that wait in the tracker

    def on_bad(name: str, reason: str) -> None:
        nonlocal skipped
        if not args.skip_bad and not live:
            raise InputError(f"{reason} (--skip_bad leaves such frames out)")
        tqdm.write(printable(f"skipped {source.name}/{name}: {reason}"))
        bad.append({"sequence": source.name, "frame": name, "reason": reason})
        skipped += 1

    def read() -> Iterator[np.ndarray]:
        nonlocal late, skipped
        try:
            for name, grey in source.frames(on_bad):
                waiting.append((name, time.perf_counter(), skipped))
                skipped = 0
                yield grey
        except Exception as error:  # the frames before it are predicted
            late = error

    tracker = TrackFilter(args.min_track, args.track_speed)
    with ExitStack() as stack:
        write = stack.enter_context(sequence_writer(source, output, tables, args.fps or source.fps, subfolders))
        latency = Latency(stack.enter_context(open_atomic(output / "latency.csv"))) if live else None
        progress = stack.enter_context(Progress(source.length, source.name, "frame"))

        def release(frames: Iterable[TrackedResult]) -> None:
            nonlocal count
            for frame in frames:
                seconds = time.perf_counter() - arrivals.popleft()
                if live:
                    latency.add(source.name, frame.name, seconds)
                write(*frame)
                progress.update()
                count += 1

        try:
            for result in predict_frames(source, predictor, read()):
                name, arrival, gap = waiting.popleft()
                if not np.isfinite(result.probability).all():
                    reason = "the network overflows; use --amp none, or other weights"
                    raise InputError(f"the map of frame {name} is not finite: {reason}")
                arrivals.append(arrival)
                tracker.skip(gap)
                release(tracker.add(name, result))
        except (Exception, KeyboardInterrupt) as error:
            late = error
        release(tracker.finish())
        if not count:
            expected = "give an image or a video that can be decoded"
            raise late or InputError(f"no frame of {source.name} can be read; {expected}")
        report_range(source, args.range)
    if live:
        print(latency.summary())
    if late is not None:
        raise late


def predict_frames(source: Source, predictor: "istd.Predictor", frames: Iterable[np.ndarray]) -> Iterator[FrameResult]:
    """The results of the frames of a source, in order; of unrelated images, every image is a clip."""
    if source.kind in UNRELATED and predictor.model.num_frames > 1:
        return chain.from_iterable(predictor.stream([frame]) for frame in frames)
    return predictor.stream(frames, live=source.kind == "live")


def report_range(source: Source, asked: RangeRule | None) -> None:
    """Print the range of raw frames, or that the range `asked` for has no effect."""
    if source.scale.range:
        tqdm.write(f"{source.name}: {describe_range(source.scale)}")
    elif asked not in (None, SEQUENCE):
        tqdm.write(f"{source.name}: --range has no effect on frames of 8 bits, which are divided by 255")


if __name__ == "__main__":
    run_main(main)
