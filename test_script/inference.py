"""Run a network over a dataset: metrics by any protocols, masks, detections, curves, and a report to look at.

    python -m test_script.inference --model_path checkpoint_best.pth --dataset IRDST --flip --msc --output_dir ./predict

Written to the output folder: report.html (open it in a browser), metrics.json, per_sequence.csv, per_image.csv,
detections.csv, curves/, masks/<sequence>/<frame>.png by the first protocol, and with --save_probabilities
probabilities/<sequence>/<frame>.png (16 bit). `torchrun --nproc_per_node=2 -m test_script.inference` shares the work
between processes. After an interruption, the same command with --resume goes on.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit
from torch.utils.data import DataLoader
from tqdm import tqdm

import datasets
from datasets import ClipDataset, ClipSample
from datasets.catalog import DatasetInfo
from models import load_model
from test_script.predictor import Predictor, ScoreMaps
from test_script.predictor.model_options import add_model_options, predictor_options
from test_script.predictor.preparation import eval_dataset, frame_preparation, recipe_settings
from test_script.report.report import write_report
from test_script.results.background import BackgroundWriter
from test_script.results.detections import find_detections
from test_script.results.inference_results import merge_parts, published_lines, write_results
from test_script.results.result_files import detection_row, frame_file, write_mask, write_probability
from test_script.results.work_parts import Part, file_hash, load_part, loader_batches, save_part, split_work, start_run
from utils.checkpoint import read_checkpoint
from utils.distributed import barrier, end_distributed, init_distributed, is_main, rank, world_size
from utils.errors import InputError, run_main
from utils.metrics import PROTOCOLS, MetricAccumulator, Protocol, build_metric
from utils.metrics.tables import metrics_table

GPU_WORKERS = 4


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = parse_arguments(argv)
    device = init_distributed(args.device)
    try:
        run(args, device)
    finally:
        end_distributed()


def run(args: argparse.Namespace, device: torch.device) -> None:
    """The command on one of its processes."""
    index = datasets.open_dataset(args.dataset, args.data_root)
    options = {} if args.image_size is None else {"image_size": args.image_size}
    checkpoint = read_checkpoint(args.model_path)
    model = load_model(checkpoint, **options)
    settings = recipe_settings(checkpoint)
    tiled = args.tile is not None
    dataset = eval_dataset(index.split(args.split), model, settings, index.info.name, tiled)
    predictor = Predictor(model, frame_preparation(dataset.transform), device, **predictor_options(args))
    protocols = choose_protocols(args.protocol, index.info)
    output = Path(args.output_dir)
    single_images = index.info.kind == "images"
    parts = split_work([number for number, _ in dataset.targets], single_images)

    if is_main():
        print(index.summary)
        start_run(output, run_settings(args, index.info.name, protocols, len(dataset)), args.resume)
    barrier()  # nobody works before the folder is ready
    todo = [part for part in parts if not load_part(output / "parts", part)]
    if is_main() and len(todo) < len(parts):
        print(f"resuming: {len(parts) - len(todo)} of {len(parts)} parts are done")
    barrier()  # everybody has looked before anybody writes
    measure = Measurement(protocols, output, single_images, args.save_probabilities)
    workers = args.num_workers if args.num_workers is not None else GPU_WORKERS if device.type == "cuda" else 0
    predict_parts(todo[rank() :: world_size()], dataset, predictor, measure, workers)
    barrier()

    if is_main():
        for part in parts:
            load_part(output / "parts", part)
        results = merge_parts(
            parts, [] if single_images else [sequence.name for sequence in dataset.sequences], dataset
        )
        facts = run_facts(args, index.info, model.name)
        metrics = write_results(output, results, index, facts)
        print_results(metrics, index.info, args)
        facts["notes"] = protocol_notes(list(metrics), args)
        write_report(output / "report.html", results, metrics, index.info, facts, dataset, predictor)
        print(f"results in {output}; open {output / 'report.html'} in a browser")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m test_script.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument("--dataset", required=True, help="name from datasets/catalog.py, or a folder of a known layout")
    parser.add_argument("--data_root", help="folder that holds the datasets by name; default datasets/path_config.py")
    parser.add_argument("--split", default="test", help="train, test or another list of the dataset; default test")
    parser.add_argument(
        "--protocol",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(PROTOCOLS)}; default: standard, and the one of the dataset's paper",
    )
    parser.add_argument("--output_dir", default="./predict", help="where to write; default ./predict")
    parser.add_argument("--save_probabilities", action="store_true", help="write 16-bit probability maps too")
    parser.add_argument("--num_workers", type=int, help="processes that read frames; default 4 with a GPU, else none")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same options")
    args = parser.parse_args(argv)
    if args.num_workers is not None and args.num_workers < 0:
        raise InputError(f"--num_workers is {args.num_workers}; expected 0 or more")
    return args


def choose_protocols(asked: list[str] | None, info: DatasetInfo) -> list[Protocol]:
    """The protocols asked for, or standard and the dataset's own; `InputError` for a name that does not exist."""
    names = dict.fromkeys(asked or ["standard", *([info.protocol] if info.protocol else [])])
    return [build_metric(name).protocol for name in names]


def run_settings(args: argparse.Namespace, dataset: str, protocols: list[Protocol], count: int) -> dict[str, Any]:
    """Everything that decides the results of a run, for run.json."""
    names = ("split", "image_size", "tile", "amp", "compile", "flip", "save_probabilities")
    return {
        "dataset": dataset,
        "frames": count,
        "model_sha256": file_hash(args.model_path),
        "protocols": [protocol.name for protocol in protocols],
        "scales": list(predictor_options(args)["scales"]),
        **{name: getattr(args, name) for name in names},
    }


class Measurement:
    """Scores frames by every protocol and writes their files; called in the background, a frame at a time."""

    def __init__(self, protocols: list[Protocol], output: Path, single_images: bool, save_probabilities: bool):
        self.protocols = protocols
        self.output = output
        self.single_images = single_images
        self.save_probabilities = save_probabilities
        self.needs_probability = any(protocol.scale == "probability" for protocol in protocols)
        self.needs_logit = any(protocol.scale == "logit" for protocol in protocols)

    def __call__(self, part: Part, sample: ClipSample, maps: ScoreMaps) -> None:
        """Measure a frame into `part`, and write the part's file after its last frame."""
        probability = maps.probability if maps.probability is not None else expit(maps.logit)
        scores = {"probability": probability, "logit": maps.logit}
        truth = sample.mask[0].numpy() > 0
        sequence = None if self.single_images else sample.sequence
        for protocol in self.protocols:
            metric = MetricAccumulator(protocol)
            metric.update(scores[protocol.scale], truth, sequence, sample.frame)
            part.rows.setdefault(protocol.name, []).extend(metric.rows)
        part.curves.update(probability, truth, sequence, sample.frame)

        first = self.protocols[0]
        mask = first.iou_map(scores[first.scale])
        names = (sample.sequence, sample.frame)
        part.detections += [detection_row(*names, found) for found in find_detections(mask, probability)]
        write_mask(frame_file(self.output / "masks", *names, self.single_images), mask)
        if self.save_probabilities:
            write_probability(frame_file(self.output / "probabilities", *names, self.single_images), probability)
        part.seen += 1
        if part.seen == len(part.items):
            save_part(self.output / "parts", part)


def predict_parts(
    parts: list[Part], dataset: ClipDataset, predictor: Predictor, measure: Measurement, num_workers: int
) -> None:
    """Run the network over the items of `parts`, measuring them in the background."""
    part_of = {item: part for part in parts for item in part.items}
    batches = list(loader_batches(parts, predictor.batch_size, num_workers))
    if not batches:
        return
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=list,  # sizes may differ within a batch
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers and predictor.device.type == "cuda" else None,
    )
    with (
        BackgroundWriter() as writer,
        tqdm(
            total=len(part_of), desc=dataset.dataset_name, unit="frame", disable=None if is_main() else True
        ) as progress,
    ):
        for items, samples in zip(batches, loader, strict=True):
            maps = predictor.score_maps(
                [sample.clip for sample in samples],
                [tuple(sample.mask.shape[-2:]) for sample in samples],
                probability=measure.needs_probability,
                logit=measure.needs_logit,
            )
            for item, sample, scores in zip(items, samples, maps, strict=True):
                writer.submit(measure, part_of[item], sample._replace(clip=None), scores)
            progress.update(len(samples))


def print_results(metrics: dict[str, dict], info: DatasetInfo, args: argparse.Namespace) -> None:
    """Ours and the published metrics side by side."""
    first = next(iter(metrics.values()))
    print(f"{first['images']} images, {first['targets']} targets")
    print(metrics_table(metrics | published_lines(info), "protocol"))
    if first.get("by_snr"):
        print(f"dimmer and brighter half of the frames with targets, {next(iter(metrics))}:")
        print(metrics_table(first["by_snr"], "dimmest target"))
    for note in protocol_notes(list(metrics), args):
        print(note)


def protocol_notes(names: list[str], args: argparse.Namespace) -> list[str]:
    """Where the passes that were run are not those of a protocol's published metrics."""
    notes = []
    scales = predictor_options(args)["scales"]
    if "sgmp-2025" in names and not args.flip:
        notes.append("note: the published metrics of sgmp-2025 average over flips; add --flip to compare")
    if "sgmp-2026" in names and (not args.flip or len(scales) == 1):
        notes.append("note: the published metrics of sgmp-2026 are with --flip --msc; add both to compare")
    if "datransnet" in names and (args.flip or scales != (1.0,)):
        notes.append("note: the published metrics of datransnet are without --flip and --msc")
    return notes


def run_facts(args: argparse.Namespace, info: DatasetInfo, model_name: str) -> dict[str, Any]:
    """What the run was, for metrics.json and the report's head."""
    options = predictor_options(args)
    return {
        "dataset": info.name,
        "split": args.split,
        "model": model_name,
        "checkpoint": str(args.model_path),
        **{name: options[name] for name in ("flip", "scales", "tile", "amp")},
    }


if __name__ == "__main__":
    run_main(main)
