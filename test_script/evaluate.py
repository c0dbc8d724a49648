"""Measure saved score maps, masks, or boxes of any method.

Predictions are probability maps, such as those of `inference --save_maps`: npy or mat [H, W], or png, bmp, or tiff of
8 or 16 bits. Maps that are already masks are recognised. --normalize is for methods whose responses have another range.
The true masks come from a folder (--masks) or a dataset (--dataset). The metrics are printed; --output_dir writes the
files that inference writes: report.html, tables, curves, detections, and for sequences tracks.

--boxes and --detections measure the boxes of any detector in COCO's format: AP50, precision, recall, and F1.

Examples:

    python -m test_script.evaluate --predictions path/to/maps --masks path/to/masks --protocol all
    python -m test_script.evaluate --predictions path/to/maps --dataset NUDT-SIRST --output_dir predict/method
    python -m test_script.evaluate --boxes truth.json --detections detections.json
    python -m test_script.evaluate --list_protocols
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from istd.datasets import Sequence
from istd.datasets.fingerprint import fingerprint
from istd.datasets.layouts import Frame
from istd.test_script.map_sources import saved_maps
from istd.test_script.measurement import Job, measure_maps, measure_set
from istd.test_script.options import TRACK_OPTIONS, add_part_options, add_pictures_option, add_track_options, open_part
from istd.test_script.results.frame_set import (
    FrameSet,
    choose_frames,
    dataset_frames,
    dataset_pairs,
    pair_frames,
    read_names,
)
from istd.test_script.results.result_files import write_image_metrics
from istd.test_script.results.set_results import print_metrics, write_set_curves
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_json
from istd.utils.images import IMAGE_SUFFIXES, file_key
from istd.utils.metrics import PROTOCOLS, build_metrics
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.boxes import box_line, measure_boxes, read_box_files
from istd.utils.metrics.map_files import mask_values
from istd.utils.metrics.saved_maps import Pair, find_pairs, key_names, list_files, read_groups
from istd.utils.metrics.tables import areas_table, metrics_table, protocols_text
from istd.utils.names import counted, list_names

MAP_OPTIONS = (
    *("predictions", "output_dir", "report_pictures", "protocol", "suffix", "logits", "normalize", "list", "groups"),
    *("per_image", "curves", *TRACK_OPTIONS),
)
OPTIONS = {  # of each kind of truth, beside --output; the others are refused
    "boxes": ("detections", "any_category"),
    "masks": ("images", *MAP_OPTIONS),
    "dataset": ("data_root", "split_folder", "skip_unusable", "split", *MAP_OPTIONS),
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; raises `InputError` for those that the kind of truth does not use."""
    parser = command_parser("test_script.evaluate", __doc__)
    add = parser.add_argument
    maps = "folder of the maps, NAME.npy, .mat, .png, .bmp, or .tiff, or of a folder for each sequence"
    add("--predictions", type=Path, metavar="FOLDER", help=maps)
    add("--masks", type=Path, metavar="FOLDER", help="folder of masks of the same names, in the same folders")
    dataset = "dataset that has the masks, instead of --masks: name from datasets/path_config.py, or a folder"
    add("--dataset", metavar="NAME|FOLDER", help=dataset)
    add_part_options(parser)
    add("--images", type=Path, metavar="FOLDER", help="images of --masks, for the pictures of the report")
    folder = "write the report, tables, curves, detections and tracks as inference does; default: nothing is written"
    add("--output_dir", type=Path, metavar="DIR", help=folder)
    add_pictures_option(parser)
    add_track_options(parser)
    protocols = f"one or several of {', '.join(PROTOCOLS)}, or all; default standard"
    add("--protocol", nargs="+", action="extend", metavar="NAME", help=protocols)
    add("--suffix", default="", metavar="TEXT", help="ending of the names of the maps, such as _PSTNN")
    scales = parser.add_mutually_exclusive_group()
    scales.add_argument("--logits", action="store_true", help="the maps are logits (npy), not probabilities")
    ranges = "the maps are responses of any range: scale each of them from its minimum (0) to its maximum (1)"
    scales.add_argument("--normalize", action="store_true", help=ranges)
    add("--list", type=Path, metavar="FILE", help="measure only the images or sequences that a file names")
    groups = "also print the metrics of groups, for instance by SNR: lines NAME,GROUP with the name of an "
    add("--groups", type=Path, metavar="FILE.csv", help=f"{groups}image or a sequence")
    add("--output", type=Path, metavar="FILE.json", help="write the metrics, as ratios, as JSON")
    add("--per_image", type=Path, metavar="FILE.csv", help="write the metrics of each image, as ratios")
    add("--curves", type=Path, metavar="DIR", help="write precision over recall, ROC, and Pd over Fa as csv and png")
    add("--boxes", type=Path, metavar="FILE.json", help="true boxes in COCO's format, instead of masks")
    boxes = "detected boxes: list of {image_id, category_id, bbox, score}"
    add("--detections", type=Path, metavar="FILE.json", help=boxes)
    add("--any_category", action="store_true", help="ignore the categories of boxes")
    add("--list_protocols", action="store_true", help="print the rules of each protocol and exit")
    args = parser.parse_args(argv)
    no_defaults = argparse.Namespace(**dict.fromkeys(vars(args)))
    given = [name for name, value in vars(parser.parse_args(argv, no_defaults)).items() if value is not None]
    truth = next((kind for kind in OPTIONS if kind in given), None)
    for name in given if truth else ():
        if name not in (truth, "output", "list_protocols", *OPTIONS[truth]):
            raise InputError(f"--{name} does not go with --{truth}; leave one of them out")
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure the predictions by each protocol; write the requested files and print the metrics."""
    args = parse_arguments(argv)
    if args.list_protocols:
        print(protocols_text())
        return
    if args.boxes or args.detections:
        evaluate_boxes(args)
        return
    frame_set, pairs, origin = find_maps(args)
    job = prepare_job(args, frame_set, pairs, origin)
    groups = read_groups(args.groups, pairs) if args.groups else {}
    for file in (args.output, args.per_image, args.curves and args.curves / "curves.csv"):
        if file:
            check_writable(file)

    def group(row: ImageCounts) -> str | None:
        return next((groups[name] for name in key_names((row.sequence, row.frame)) if name in groups), None)

    results, metrics, tracks, notes = measure_set(job, args.output_dir) if args.output_dir else measure_maps(job)
    if groups:
        metrics = {name: metrics[name] | {"groups": metric.split(group)} for name, metric in results.metrics.items()}
    if args.output:
        write_json(args.output, metrics)
    if args.per_image:
        write_image_metrics(args.per_image, results.metrics)
    curves = write_set_curves(args.curves, results, job.facts) if args.curves else []
    print_metrics(metrics, notes=notes, tracks=tracks)
    print_parts(metrics)
    for file in curves:
        print(f"wrote {file}")
    if args.output_dir:
        print(f"results in {args.output_dir}; open {args.output_dir / 'report.html'} in a browser")
    elif not (args.output or args.per_image or args.curves):
        print("nothing was written; --output_dir DIR writes a report, tables, curves, detections and tracks")


def find_maps(args: argparse.Namespace) -> tuple[FrameSet, list[Pair], dict[str, Any]]:
    """The frames to measure, their maps and masks, and their origin; `InputError` where these do not fit."""
    if args.predictions is None:
        raise InputError("--predictions is missing; give the folder of predictions")
    if args.masks is None and args.dataset is None:
        raise InputError("--masks is missing; give the folder of masks, or the dataset that has them with --dataset")
    names = read_names(args.list) if args.list else None
    if args.masks:
        pairs = find_pairs(args.predictions, args.masks, names, args.suffix)
        frame_set = pair_frames(args.masks.resolve().parent.name, pairs, find_images(args.images, pairs))
        return frame_set, pairs, {"dataset": frame_set.name, "split": args.list.stem if args.list else "all"}
    index = open_part(args)
    frame_set, part = dataset_frames(index, index.split(args.split)), args.split
    if names:
        frame_set, part = choose_frames(frame_set, names), f"{part}, {args.list.stem}"
    origin = {"dataset": frame_set.name, "split": part, "split_source": index.split_source}
    pairs = dataset_pairs(args.predictions, frame_set.frames, args.suffix)
    return frame_set, pairs, origin | {"left_out": [*index.left_out]}


def prepare_job(args: argparse.Namespace, frame_set: FrameSet, pairs: list[Pair], origin: dict[str, Any]) -> Job:
    """The job of measuring saved maps, from what `find_maps` returned; `InputError` for options that do not fit."""
    protocols = [metric.protocol for metric in build_metrics(args.protocol or ["standard"]).values()]
    if args.min_track > 1 and not (args.output_dir and frame_set.in_sequences):
        lack = f"{frame_set.name} has single images" if args.output_dir else "without --output_dir there are no tracks"
        raise InputError(f"--min_track {args.min_track}: {lack}; give a folder for sequences, or leave it out")
    if args.output_dir:
        check_separate(args)
    scale = "logit" if args.logits else "normalize" if args.normalize else "probability"
    two_values = None if args.logits else mask_values(pair.prediction for pair in pairs)
    notes = []
    if two_values:
        low, high = two_values
        masks = f"note: the predictions are masks of the values {low:g} and {high:g}, which rank nothing"
        notes.append(f"{masks}: no AP and AUC, and a point for each curve")
    folder = args.predictions.resolve()  # names the method, unless it names the kind of maps
    facts = {
        **origin,
        "model": folder.parent.name if folder.name in ("probabilities", "logits") else folder.name,
        "predictions": str(args.predictions),
        "logits": args.logits,
        "normalize": args.normalize,
        **{name: getattr(args, name) for name in TRACK_OPTIONS},
        "save_maps": None,
        "frames": len(pairs),
        "data": fingerprint(Sequence(p.sequence or "", (Frame(p.frame, p.prediction, p.mask),)) for p in pairs),
        "protocols": [protocol.name for protocol in protocols],
    }
    with_curves = "standard" in facts["protocols"] or args.output_dir or args.curves  # AP and AUC belong to standard
    maps = partial(saved_maps, pairs=pairs, scale=scale, two_values=two_values)
    return Job(frame_set, maps, protocols, facts, notes, bool(with_curves), args.report_pictures)


def evaluate_boxes(args: argparse.Namespace) -> None:
    """Measure --detections by --boxes; print the metrics, and write them to --output."""
    for option, value in (("boxes", args.boxes), ("detections", args.detections)):
        if value is None:
            raise InputError(f"--{option} is missing; give both --boxes and --detections")
    if args.output:
        check_writable(args.output)
    metrics = measure_boxes(*read_box_files(args.boxes, args.detections), not args.any_category)._asdict()
    if args.output:
        write_json(args.output, metrics)
    nouns = {"image": "images", "box": "boxes", "detection": "detections"}
    print(", ".join(counted(metrics[name], noun) for noun, name in nouns.items()))
    print(box_line(metrics))


def check_separate(args: argparse.Namespace) -> None:
    """Raise `InputError` if --output_dir, in which old results are replaced, contains the files to measure."""
    for option in ("predictions", "masks", "images"):
        folder = getattr(args, option)
        if folder and folder.resolve().is_relative_to(args.output_dir.resolve()):
            raise InputError(f"--output_dir {args.output_dir} holds --{option} {folder}; choose another folder")


def find_images(folder: Path | None, pairs: list[Pair]) -> list[Path] | list[None]:
    """The image of each of `pairs`, for the report's pictures; None without a folder."""
    if folder is None:
        return [None] * len(pairs)
    files = list_files(folder, IMAGE_SUFFIXES, "images")
    keys = [(pair.sequence and file_key(pair.sequence), file_key(pair.frame)) for pair in pairs]
    if missing := ["/".join(filter(None, key)) for key in keys if key not in files]:
        names = list_names(missing)
        raise InputError(f"{folder} has no image for {names}; names and folders must be those of the masks")
    return [files[key] for key in keys]


def print_parts(metrics: dict[str, dict]) -> None:
    """Print the metrics of the first protocol by target area, sequence and group."""
    protocol, first = next(iter(metrics.items()))
    print(f"\nPd by target area in px ({protocol})\n{areas_table(first['by_area'])}")
    if "sequences" in first:
        sequences = first["sequences"] | {"mean of sequences": first["sequence_mean"]}
        print(f"\n{metrics_table(sequences, f'sequence ({protocol})')}")
    if "groups" in first:
        print(f"\n{metrics_table(first['groups'], f'group ({protocol})')}")


if __name__ == "__main__":
    run_main(main)
