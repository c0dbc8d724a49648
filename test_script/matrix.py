"""Measure several checkpoints on several datasets: tables and heat maps of every metric.

Every pair is measured as by `test_script.inference`, with the same options, into OUTPUT_DIR/CHECKPOINT/DATASET.
CHECKPOINT is the name of the file, or RUN_checkpoint_best in the folder of a run; only checkpoints that share such a
name are named by their folders instead. Finished pairs are not measured again, so the same command continues after an
interruption, and further datasets, and checkpoints of other names, can be added. The output folder also receives
matrix.md (a table for each metric, a row for each checkpoint, a column for each dataset), matrix.csv (a row for each
pair, ratios), heat_maps/PROTOCOL_METRIC.png, and curves/DATASET/ with a line for each checkpoint. torchrun shares the
frames between processes.

Examples:

    python -m test_script.matrix --models A.pth B.pth --datasets NUDT-SIRST NUAA-SIRST --output_dir predict/matrix
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from istd.datasets import open_datasets
from istd.test_script.inference import add_reading_options, measure_dataset, prepare_jobs
from istd.test_script.measurement import Job, read_curves
from istd.test_script.options import add_model_options, add_track_options
from istd.test_script.results.result_files import single_numbers, write_table
from istd.test_script.results.run_folder import check_run, checkpoint_label, read_finished
from istd.utils.command_line import command_parser
from istd.utils.distributed import process_group
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, json_ready, open_atomic
from istd.utils.folder_lock import locked_folder
from istd.utils.metrics import PROTOCOLS
from istd.utils.metrics.accumulator import LOWER_IS_BETTER
from istd.utils.metrics.curves import Curves
from istd.utils.metrics.tables import HEADINGS, format_metric, text_table
from istd.utils.names import folder_name, printable
from istd.utils.plots import write_curves, write_heat_map
from istd.utils.ranks import barrier, is_main

Results = Mapping[tuple[str, str], Mapping[str, Mapping]]  # (checkpoint, dataset) -> protocol -> metrics
MEMORY_ADVICE = "lower --batch_size, or give --tile"  # of `run_main`


def main(argv: list[str] | None = None) -> None:
    """Measure every checkpoint on every dataset; called in each process."""
    args = parse_arguments(argv)
    with process_group(args.device) as device, locked_folder(args.output_dir):
        measure_pairs(prepare_pairs(args, device), args.output_dir)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.matrix", __doc__)
    add_model_options(parser, several=True)
    add = parser.add_argument
    datasets = "names from datasets/path_config.py, or folders"
    add("--datasets", nargs="+", required=True, metavar="NAME|FOLDER", help=datasets)
    known = f"one or several of {', '.join(PROTOCOLS)}, or all; default standard"
    add("--protocol", nargs="+", metavar="NAME", default=["standard"], help=known)
    folder = "where to write; default predict/matrix"
    add("--output_dir", type=Path, default=Path("predict/matrix"), metavar="DIR", help=folder)
    add_reading_options(parser)
    add_track_options(parser)
    parser.set_defaults(save_maps=None)
    return parser.parse_args(argv)


def prepare_pairs(args: argparse.Namespace, device: torch.device) -> dict[tuple[str, str], Job]:
    """Open every dataset and every checkpoint; returns the job of each pair (checkpoint, dataset)."""
    names = checkpoint_names(args.models)
    check_writable(args.output_dir / "matrix.md")
    indices = open_datasets("+".join(args.datasets), args.data_root, args.split_folder)
    jobs = {}
    for name, path in zip(names, args.models, strict=True):
        options = argparse.Namespace(**vars(args) | {"model_path": path})
        jobs |= {(name, job.frame_set.name): job for job in prepare_jobs(indices, options, device)}
    return jobs


def measure_pairs(jobs: dict[tuple[str, str], Job], output: Path) -> None:
    """Measure the pairs that are not finished in `output`, and write the tables and pictures of all pairs."""
    results = {}
    for pair, job in jobs.items():
        folder = output.joinpath(*pair)
        check_run(folder, job.facts, resume=True)
        results[pair] = read_finished(folder, job.facts)
    barrier()  # every process has looked before any of them writes
    for number, (pair, job) in enumerate(jobs.items(), 1):
        if is_main():
            state = "" if results[pair] is None else ": finished before"
            print(printable(f"pair {number} of {len(jobs)}, {pair[0]} on {pair[1]}{state}"), flush=True)
        if results[pair] is None:
            results[pair] = json_ready(measure_dataset(job, output.joinpath(*pair), resume=True))
    if is_main():
        write_dataset_curves(output, jobs)
        write_matrix(output, results)


def write_dataset_curves(output: Path, jobs: dict[tuple[str, str], Job]) -> None:
    """Write curves/DATASET/ with a line for each checkpoint in every picture, if there are several checkpoints."""
    by_dataset: dict[str, dict[str, Curves]] = {}
    for (model, dataset), job in jobs.items():
        if (curves := read_curves(job, output / model / dataset)) is not None:
            by_dataset.setdefault(dataset, {})[model] = curves
    for dataset, curves in by_dataset.items():
        if len(curves) > 1:
            write_curves(curves, output / "curves" / dataset, f"{dataset}, protocol standard")


def checkpoint_names(paths: list[Path]) -> list[str]:
    """Different names: `checkpoint_label`, which depends on the path alone; of paths that share it, `tell_apart`."""
    if len({*map(os.path.abspath, paths)}) < len(paths):
        raise InputError(f"--models {' '.join(map(str, paths))} has a checkpoint twice; give each of them once")
    labels = [folder_name(checkpoint_label(path).replace("/", "_")) for path in paths]
    shared = [path for path, label in zip(paths, labels, strict=True) if labels.count(label) > 1]
    apart = dict(zip(shared, tell_apart(shared), strict=True)) if shared else {}
    names = [apart.get(path, label) for path, label in zip(paths, labels, strict=True)]
    return names if len(set(names)) == len(names) else tell_apart(paths)


def tell_apart(paths: list[Path]) -> list[str]:
    """File names, with as many folders as necessary, without the end that all paths share.

    For instance, runs/a/train/best.pth and runs/b/train/best.pth are a and b.
    """
    files = [os.path.abspath(path) for path in paths]
    stems = [file.removesuffix(".pth").removesuffix(".safetensors") for file in files]
    parts = [Path(stem if stems.count(stem) == 1 else file).parts[1:] for stem, file in zip(stems, files, strict=True)]
    shared = 0
    shortest = min(map(len, parts))
    while shared + 1 < shortest and len({path[-1 - shared] for path in parts}) == 1 < len(parts):
        shared += 1
    for length in range(shared + 1, max(map(len, parts)) + 1):
        names = ["_".join(path[-length : len(path) - shared]) for path in parts]
        if len(set(names)) == len(names):
            break
    return list(map(folder_name, names))


def write_matrix(output: Path, results: Results) -> None:
    """Write matrix.csv, matrix.md and the heat maps; print the tables of the main metrics."""
    rows = []
    for (model, dataset), by_protocol in results.items():
        for protocol, metrics in by_protocol.items():
            names = {"protocol": protocol, "checkpoint": model, "dataset": dataset}
            rows.append(names | single_numbers(metrics))
    write_table(output / "matrix.csv", rows)
    tables, sections = [], ["# Checkpoints (rows) measured on datasets (columns)\n"]
    for protocol in next(iter(results.values())):
        for metric, (heading, _) in HEADINGS.items():
            table = metric_table(results, protocol, metric)
            if table is None:
                continue
            picture = Path("heat_maps") / f"{protocol}_{metric}.png"
            write_heat_map(output / picture, table, metric in LOWER_IS_BETTER)
            lines = [table[0], ["---", *("--:" for _ in table[0][1:])], *table[1:]]
            grid = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
            sections.append(f"## {heading}, {protocol}\n\n{grid}\n\n![{heading}]({picture.as_posix()})\n")
            tables.append(f"{text_table(table)}\n")
    with open_atomic(output / "matrix.md") as file:
        file.write("\n".join(sections))
    print("\n".join(tables))
    print(printable(f"results in {output}: matrix.md, matrix.csv, heat_maps/, and curves/ of several checkpoints"))


def metric_table(results: Results, protocol: str, metric: str) -> list[list[str]] | None:
    """A table of a metric, a row for each checkpoint and a column for each dataset; None if no pair has the metric."""
    values = {pair: by_protocol[protocol].get(metric) for pair, by_protocol in results.items()}
    if all(value is None for value in values.values()):
        return None
    models, datasets = (list(dict.fromkeys(pair[side] for pair in results)) for side in (0, 1))
    cells = [[model, *(format_metric(metric, values[model, dataset]) for dataset in datasets)] for model in models]
    return [[f"{HEADINGS[metric][0]} ({protocol})", *datasets], *cells]


if __name__ == "__main__":
    run_main(main)
