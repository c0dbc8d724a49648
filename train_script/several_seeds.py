"""A recipe with several seeds (`--seeds 1 2 3`): a run for each, and mean and standard deviation of their metrics."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from istd.train_script.run_folder import METRICS, TEST
from istd.train_script.starting_point import StartingPoint, find_start, name_folder, start_from_weights
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.metrics.tables import metrics_table
from istd.utils.ranks import is_main

Metrics = dict[str, float | None]


def starts_of_seeds(config: str | None, options: dict[str, Any]) -> list[StartingPoint]:
    """The starting points of the seeds, whose runs are named after the recipe and the seed."""
    seeds = options["seeds"]
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {seeds}, expected two or more different numbers; --seed sets a single seed")
    if options.get("resume") not in (None, "auto"):
        raise InputError(f"several seeds continue with --resume auto, not with {options['resume']}")
    shared = {name: value for name, value in options.items() if name != "seeds"}
    name = name_folder(start_from_weights(config, shared)[0], config).parent.name
    starts = [find_start(config, shared | {"seed": seed, "experiment_name": f"{name}_seed{seed}"}) for seed in seeds]
    if starts[0].settings.select_on == "none" and not starts[0].settings.final_test:
        raise InputError(
            "select_on none and final_test false leave nothing to compare the seeds by; leave either of them out"
        )
    return starts


def train_seeds(starts: list[StartingPoint], train: Callable[[StartingPoint], int]) -> int:
    """Train in sequence and print the table; returns the status of the first run that was interrupted, or 0."""
    for start in starts:
        if status := train(start):
            return status
    if is_main():
        report_seeds([(start.settings.seed, start.folder) for start in starts])
    return 0


def report_seeds(runs: list[tuple[int, Path]]) -> None:
    """Print the metrics of the runs (seed, folder) with mean and standard deviation, and write them to seeds.json."""
    tested = all((folder / TEST).exists() for _, folder in runs)
    by_seed = {seed: result_metrics(folder, tested) for seed, folder in runs}
    part = "test set" if tested else "validation"
    summary = {"mean": summarise(by_seed, statistics.mean), "std": summarise(by_seed, statistics.stdev)}
    rows = {f"seed {seed}": metrics for seed, metrics in by_seed.items()}
    print(f"{len(runs)} seeds, {part}; std is the sample standard deviation (n - 1)")
    print(metrics_table(rows | summary, "seed"), flush=True)
    folder = runs[0][1].parent
    path = folder.with_name(folder.name.rsplit("_seed", 1)[0] + "_seeds.json")
    write_json(path, {"part": part, "seeds": {str(seed): metrics for seed, metrics in by_seed.items()}, **summary})


def result_metrics(folder: Path, tested: bool) -> Metrics:
    """The test metrics of a run, or the metrics of its best validation if not all runs are `tested`."""
    if tested:
        return json.loads((folder / TEST).read_text(encoding="utf-8"))["metrics"]
    rows = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    validated = [row for row in rows if "val" in row]
    if not validated:
        raise InputError(f"{folder} was neither validated nor tested, so that there is nothing to compare")
    best = max(row.get("best_epoch", 0) for row in validated)
    return next(row for row in validated if row["epoch"] == best)["val"]


def summarise(by_seed: dict[int, Metrics], statistic: Callable[[list[float]], float]) -> Metrics:
    """A statistic of every metric over all runs; None for a metric that is undefined in a run."""
    names = dict.fromkeys(name for metrics in by_seed.values() for name in metrics)
    values = {name: [metrics.get(name) for metrics in by_seed.values()] for name in names}
    return {name: None if None in numbers else statistic(numbers) for name, numbers in values.items()}
