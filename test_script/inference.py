"""Run a network over one or several datasets: metrics by any protocols, masks, detections, curves, and a report.

    python -m test_script.inference --model_path checkpoint_best.pth --dataset IRDST --flip --msc --output_dir ./predict

Written to the output folder: report.html (open it in a browser), metrics.json, per_sequence.csv, per_image.csv,
detections.csv, detections_coco.json, curves/, and masks/<sequence>/<frame>.png by the first protocol. --save_maps adds
probabilities/<sequence>/<frame>.npy, float32 (and logits/ where a protocol measures logits), for which
`python -m test_script.evaluate` gives the same metrics to the last bit, and which pyirstdmetrics takes as its `prob`;
--save_maps png writes 16-bit pictures instead. `--dataset A+B` writes a folder for each dataset and per_dataset.csv.
`torchrun --nproc_per_node=2 -m test_script.inference` shares the work between processes. After an interruption, the
same command with --resume continues the run.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import ClipDataset, ClipSample, DatasetIndex, open_datasets
from datasets.catalog import DatasetInfo
from models import load_model
from test_script.predictor import Predictor, ScoreMaps
from test_script.predictor.model_options import add_model_options, predictor_options
from test_script.predictor.preparation import eval_dataset, frame_preparation, recipe_settings
from test_script.report.report import write_report
from test_script.report.report_cases import KeptFrames
from test_script.results.detections import find_detections
from test_script.results.inference_results import merge_parts, published_lines, write_dataset_table, write_results
from test_script.results.result_files import background_calls, detection_row, frame_file, write_map, write_mask
from test_script.results.work_parts import Part, file_hash, load_part, loader_batches, save_part, split_work, start_run
from utils.checkpoint import read_checkpoint
from utils.distributed import barrier, end_distributed, init_distributed, is_main, rank, world_size
from utils.errors import InputError, run_main
from utils.metrics import PROTOCOLS, MetricAccumulator, Protocol, build_metric
from utils.metrics.tables import metrics_table

GPU_WORKERS = 4


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    args = parse_arguments(argv)
    device = init_distributed(args.device)
    try:
        run(args, device)
    finally:
        end_distributed()


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Measure all datasets; called in each process."""
    indices = open_datasets(args.dataset, args.data_root)
    options = {} if args.image_size is None else {"image_size": args.image_size}
    checkpoint = read_checkpoint(args.model_path)
    model = load_model(checkpoint, **options)
    settings, tiled = recipe_settings(checkpoint), args.tile is not None
    passes = predictor_options(args)
    sets = [eval_dataset(index.split(args.split), model, settings, index.info.name, tiled) for index in indices]
    predictor = Predictor(model, frame_preparation(sets[0].transform), device, **passes)
    protocols = [choose_protocols(args.protocol, index.info) for index in indices]
    facts = run_settings(args, model.name, passes)
    metrics = {}
    for index, dataset, rules in zip(indices, sets, protocols, strict=True):
        output = Path(args.output_dir) / (index.info.name if len(indices) > 1 else "")
        metrics[index.info.name] = measure_dataset(index, dataset, predictor, rules, output, facts, args)
    if is_main() and len(indices) > 1:
        write_dataset_table(Path(args.output_dir) / "per_dataset.csv", metrics)


def measure_dataset(
    index: DatasetIndex,
    dataset: ClipDataset,
    predictor: Predictor,
    protocols: list[Protocol],
    output: Path,
    facts: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, dict]:
    """Measure one dataset and write everything to `output`; the main process returns the metrics by protocol."""
    single_images = index.info.kind == "images"
    parts = split_work([number for number, _ in dataset.targets], single_images)
    names = [protocol.name for protocol in protocols]
    facts = {"dataset": index.info.name, **facts, "frames": len(dataset), "protocols": names}
    if is_main():
        print(index.summary)
        start_run(output, facts, args.resume)
    barrier()  # no process works before the folder is ready
    todo = [part for part in parts if not load_part(output / "parts", part)]
    if is_main() and len(todo) < len(parts):
        print(f"resuming: {len(parts) - len(todo)} of {len(parts)} parts are done")
    barrier()  # every process has looked before any one writes
    measure = Measurement(protocols, output, dataset, single_images, args.save_maps)
    workers = GPU_WORKERS if predictor.device.type == "cuda" else 0
    workers = workers if args.num_workers is None else args.num_workers
    predict_parts(todo[rank() :: world_size()], dataset, predictor, measure, workers)
    barrier()
    if not is_main():
        return {}

    for part in parts:
        load_part(output / "parts", part)
    results = merge_parts(parts, dataset, single_images)
    metrics = write_results(output, results, index, dataset, facts)
    notes = protocol_notes(names, facts)
    print_results(metrics, index.info, notes)
    write_report(output / "report.html", results, metrics, index.info, facts, notes, measure.kept.folder)
    print(f"results in {output}; open {output / 'report.html'} in a browser")
    return metrics


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m test_script.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument(
        "--dataset", required=True, help="name of a dataset or a folder of a known layout; several joined by '+'"
    )
    parser.add_argument("--data_root", help="folder that holds the datasets by name; default datasets/path_config.py")
    parser.add_argument("--split", default="test", help="train, test or another list of the dataset; default test")
    parser.add_argument(
        "--protocol",
        nargs="+",
        metavar="NAME",
        help=f"one or several of {', '.join(PROTOCOLS)}; default: standard, and that of the dataset's paper",
    )
    parser.add_argument("--output_dir", default="./predict", help="where to write; default ./predict")
    parser.add_argument(
        "--save_maps",
        nargs="?",
        choices=("npy", "png"),
        const="npy",
        help="write the score maps as well: npy (default), exact, or png, 16-bit probabilities",
    )
    parser.add_argument(
        "--save_probabilities", action="store_const", const="png", dest="save_maps", help="the same as --save_maps png"
    )
    parser.add_argument("--num_workers", type=int, help="processes that read frames; default 4 with a GPU, else none")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run of the same options")
    args = parser.parse_args(argv)
    if args.num_workers is not None and args.num_workers < 0:
        raise InputError(f"--num_workers is {args.num_workers}; expected 0 or more")
    return args


def choose_protocols(asked: list[str] | None, info: DatasetInfo) -> list[Protocol]:
    """Return the protocols asked for, or standard and the dataset's own; `InputError` for an unknown name."""
    names = dict.fromkeys(asked or ["standard", *([info.protocol] if info.protocol else [])])
    return [build_metric(name).protocol for name in names]


def run_settings(args: argparse.Namespace, model_name: str, passes: dict[str, Any]) -> dict[str, Any]:
    """What decides the results beside dataset and protocols: for run.json, metrics.json and the report."""
    return {
        "split": args.split,
        "model": model_name,
        "checkpoint": str(args.model_path),
        "model_sha256": file_hash(args.model_path),
        "image_size": args.image_size,
        **{name: passes[name] for name in ("flip", "tile", "amp", "compile")},
        "scales": list(passes["scales"]),
        "save_maps": args.save_maps,
    }


class Measurement:
    """Measures frames by every protocol and writes their files; called in the background, one frame at a time."""

    def __init__(
        self,
        protocols: list[Protocol],
        output: Path,
        dataset: ClipDataset,
        single_images: bool,
        save_maps: str | None,
    ):
        self.protocols = protocols
        self.output = output
        self.dataset = dataset
        self.single_images = single_images
        self.save_maps = save_maps
        self.needs_probability = any(protocol.scale == "probability" for protocol in protocols)
        self.needs_logit = any(protocol.scale == "logit" for protocol in protocols)
        self.kept = KeptFrames(output / "report_frames")

    def __call__(self, part: Part, sample: ClipSample, maps: ScoreMaps) -> None:
        """Measure the next frame of `part`, and write the part's file after its last frame."""
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
        self.write_maps(names, probability, maps.logit)
        item = part.items[len(part.sizes)]
        number, index = self.dataset.targets[item]
        image = self.dataset.sequences[number].frames[index].image
        self.kept.offer(item, part.rows[first.name][-1], image, probability, truth)
        part.sizes.append(truth.shape)
        if part.done:
            save_part(self.output / "parts", part)

    def write_maps(self, names: tuple[str, str], probability: np.ndarray, logit: np.ndarray | None) -> None:
        """The score maps of a frame, as --save_maps asks for."""
        if self.save_maps:
            suffix = f".{self.save_maps}"
            write_map(frame_file(self.output / "probabilities", *names, self.single_images, suffix), probability)
            if self.save_maps == "npy" and logit is not None:
                write_map(frame_file(self.output / "logits", *names, self.single_images, suffix), logit)


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
        background_calls() as submit,
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
                submit(measure, part_of[item], sample._replace(clip=None), scores)
            progress.update(len(samples))


def print_results(metrics: dict[str, dict], info: DatasetInfo, notes: list[str]) -> None:
    """Print the measured and the published metrics side by side."""
    first = next(iter(metrics.values()))
    print(f"{first['images']} images, {first['targets']} targets")
    print(metrics_table(metrics | published_lines(info), "protocol"))
    if first.get("by_snr"):
        print(f"dimmer and brighter half of the frames with targets, {next(iter(metrics))}:")
        print(metrics_table(first["by_snr"], "dimmest target"))
    for note in notes:
        print(note)


def protocol_notes(names: list[str], facts: dict[str, Any]) -> list[str]:
    """Notes on protocols whose published metrics rest on other test-time augmentation than this run."""
    notes = []
    flip, scales = facts["flip"], facts["scales"]
    if "sgmp-2025" in names and not flip:
        notes.append("note: the published metrics of sgmp-2025 average over flips; add --flip to compare")
    if "sgmp-2026" in names and (not flip or len(scales) == 1):
        notes.append("note: the published metrics of sgmp-2026 are with --flip --msc; add both to compare")
    if "datransnet" in names and (flip or scales != [1.0]):
        notes.append("note: the published metrics of datransnet are without --flip and --msc")
    return notes


if __name__ == "__main__":
    run_main(main)
