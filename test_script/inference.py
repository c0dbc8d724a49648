"""Test a network on one or several datasets: metrics by any protocols, masks, detections, curves, and a report.

The output folder receives report.html (open it in a browser), metrics.json, per_sequence.csv, per_image.csv,
detections.csv, detections_coco.json, curves/, and masks/<sequence>/<frame>.png by the first protocol. `--dataset A+B`
writes a folder for each dataset, and per_dataset.csv.

--save_maps adds probabilities/<sequence>/<frame>.npy, float32 (and logits/ if a protocol measures logits).
`python -m test_script.evaluate` computes the same metrics from them to the last bit, except AP and AUC, which rank
logits here and float32 probabilities there. pyirstdmetrics takes these files as its `prob`.

In sequences, detections are linked into tracks: tracks.csv, with metrics of tracks in metrics.json and the report.
--min_track N drops shorter tracks from the files of detections and tracks and from the masks; score maps, curves, and
the metrics by protocol ignore the tracks.

Examples:

    python -m test_script.inference --model_path checkpoint_best.pth --dataset IRDST --flip --msc --output_dir ./predict
    python -m test_script.inference --weights datransnet --dataset path/to/folder --protocol all
    torchrun --nproc_per_node=2 -m test_script.inference --weights datransnet --dataset NUDT-SIRST
"""

import argparse
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch

from istd.datasets import DatasetIndex, open_datasets
from istd.datasets.catalog import DatasetInfo
from istd.datasets.clips import data_lines
from istd.datasets.coco_truth import BOXES_FILE
from istd.datasets.fingerprint import fingerprint
from istd.datasets.targets import TARGET_TABLE
from istd.datasets.usable import trained_on_line, usable_index
from istd.models.external import ExternalNetwork
from istd.test_script.measurement import Job, measure_set
from istd.test_script.network_maps import network_maps
from istd.test_script.options import (
    NATURAL,
    TRACK_OPTIONS,
    add_model_options,
    add_number,
    add_part_options,
    add_pictures_option,
    add_range_option,
    add_track_options,
    code_options,
    predictor_options,
)
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.preparation import eval_dataset, frame_preparation, load_recipe
from istd.test_script.results.frame_set import dataset_frames
from istd.test_script.results.run_folder import default_folder
from istd.test_script.results.set_results import print_metrics, write_dataset_table
from istd.utils.command_line import command_parser
from istd.utils.device import amp_name
from istd.utils.distributed import process_group
from istd.utils.errors import InputError, run_main
from istd.utils.folder_lock import locked_folder
from istd.utils.grey_levels import range_value
from istd.utils.metrics import PROTOCOLS, Protocol, build_metrics
from istd.utils.names import printable
from istd.utils.ranks import is_main

GPU_WORKERS = 4
MEMORY_ADVICE = "lower --batch_size, or give --tile"  # of `run_main`


def main(argv: list[str] | None = None) -> None:
    """Measure a checkpoint on the datasets of the command line; called in each process."""
    args = parse_arguments(argv)
    with process_group(args.device) as device:
        indices = open_datasets(args.dataset, args.data_root, args.split_folder)
        jobs = {job.frame_set.name: job for job in prepare_jobs(indices, args, device)}
        folder = args.output_dir or default_folder("+".join(jobs), args.model_path)
        if len(jobs) == 1:
            measure_dataset(*jobs.values(), folder, args.resume)
            return
        with locked_folder(folder):
            metrics = {name: measure_dataset(job, folder / name, args.resume) for name, job in jobs.items()}
            if is_main():
                write_dataset_table(folder / "per_dataset.csv", metrics)


def prepare_jobs(indices: list[DatasetIndex], args: argparse.Namespace, device: torch.device) -> list[Job]:
    """A job for each dataset, with the network of `args`; raises `InputError` for all mistakes in options and data."""
    model, settings = load_recipe(
        args.model_path, args.image_size, [index.info for index in indices], code_options(args)
    )
    tiled = args.tile is not None
    indices = [usable_index(index, [args.split], args.skip_unusable, model.num_frames) for index in indices]
    sets = [
        eval_dataset(index.split(args.split), model, settings, index.info.name, tiled, args.range) for index in indices
    ]
    predictor = Predictor(model, frame_preparation(sets[0].transform), device, **predictor_options(args))
    checksum = hashlib.sha256(Path(args.model_path).read_bytes()).hexdigest()
    code = {}
    if isinstance(model, ExternalNetwork):
        code = {
            "code_sha256": model.code["sha256"],
            "interface": model.code["interface"],
            "model_options": model.options,
        }
    default_workers = GPU_WORKERS if device.type == "cuda" else 0
    workers = default_workers if args.num_workers is None else args.num_workers
    jobs = []
    for index, dataset in zip(indices, sets, strict=True):
        if index.info.kind == "images" and args.min_track > 1:
            raise InputError(
                f"--min_track {args.min_track}: {index.info.name} has single images; give a dataset of sequences"
            )
        protocols = choose_protocols(args.protocol, index.info)
        tables = [index.root / name for name in (TARGET_TABLE, BOXES_FILE)]
        facts = {
            "dataset": index.info.name,
            "split": args.split,
            "model": model.name,
            "checkpoint": str(args.model_path),
            "model_sha256": checksum,
            **code,
            **{name: getattr(args, name) for name in ("image_size", "flip", "tile", "compile", *TRACK_OPTIONS)},
            "amp": amp_name(predictor.amp),
            "scales": list(predictor.scales),
            "save_maps": args.save_maps,
            "range": range_value(dataset.grey_range),
            "ranges": {name: list(limits) for name, limits in dataset.raw_ranges().items()},
            "split_source": index.split_source,
            "left_out": list(index.left_out),
            "frames": len(dataset),
            "data": fingerprint(dataset.sequences, contents=True, tables=tables),
            "protocols": [protocol.name for protocol in protocols],
        }
        scales = {protocol.scale for protocol in protocols}
        maps = partial(network_maps, dataset=dataset, predictor=predictor, scales=scales, num_workers=workers)
        trained = trained_on_line(index, args.split, settings)
        notes = [*([trained] if trained else []), *data_lines(dataset), *protocol_notes(facts)]
        frame_set = dataset_frames(index, dataset.sequences)
        jobs.append(Job(frame_set, maps, protocols, facts, notes, pictures=args.report_pictures))
    return jobs


def measure_dataset(job: Job, output: Path, resume: bool) -> dict[str, dict]:
    """Measure a dataset, write everything to `output` and print it; the main process returns the metrics."""
    if is_main():
        print(printable(job.frame_set.summary))
    measured = measure_set(job, output, resume)
    if measured is None:
        return {}
    print_metrics(measured.metrics, job.frame_set.published, measured.notes, measured.tracks)
    print(printable(f"results in {output}; open {output / 'report.html'} in a browser"))
    return measured.metrics


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.inference", __doc__)
    add_model_options(parser)
    add_track_options(parser)
    add = parser.add_argument
    dataset = "name from datasets/path_config.py, or a folder; several joined by +"
    add("--dataset", required=True, metavar="NAME|FOLDER", help=dataset)
    known = f"one or several of {', '.join(PROTOCOLS)}, or all; default standard and the dataset's protocol"
    add("--protocol", nargs="+", metavar="NAME", help=known)
    add("--output_dir", type=Path, metavar="DIR", help="where to write; default predict/DATASET/CHECKPOINT")
    add_reading_options(parser)
    maps = "also write the score maps: npy (default) is exact, png has 16-bit probabilities"
    add("--save_maps", nargs="?", choices=("npy", "png"), const="npy", help=maps)
    same = "the same as --save_maps png"
    add("--save_probabilities", action="store_const", const="png", dest="save_maps", help=same)
    add("--resume", action="store_true", help="continue an interrupted run of the same options")
    return parser.parse_args(argv)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for where the datasets are, which part is measured, and how frames are read."""
    add_part_options(parser)
    add_range_option(parser)
    add_pictures_option(parser)
    add_number(parser, "--num_workers", NATURAL, help="processes that read frames; default 4 with a GPU, else none")


def choose_protocols(asked: list[str] | None, info: DatasetInfo) -> list[Protocol]:
    """The protocols `asked` for, else standard and the dataset's protocol; `InputError` for an unknown name."""
    names = asked or ["standard", *([info.protocol] if info.protocol else [])]
    return [metric.protocol for metric in build_metrics(names).values()]


def protocol_notes(facts: dict[str, Any]) -> list[str]:
    """Notes on protocols whose published metrics use another test-time augmentation than this run."""

    def described(augmentation: str) -> str:
        return f"with {augmentation}" if augmentation else "without --flip and --msc"

    options = (("--flip", facts["flip"]), ("--msc", facts["scales"] != [1.0]))
    present = " ".join(option for option, used in options if used)
    published = {name: PROTOCOLS[name].augmentation for name in facts["protocols"]}
    return [
        f"note: the published metrics of {name} are measured {described(augmentation)}, these {described(present)}"
        for name, augmentation in published.items()
        if augmentation not in (None, present)
    ]


if __name__ == "__main__":
    run_main(main)
