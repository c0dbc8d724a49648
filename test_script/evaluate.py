"""Measure saved predictions of any method: python -m test_script.evaluate --predictions DIR --masks DIR.

Predictions are probability maps, as those of `inference --save_maps`: npy [H, W], or png of 8 or 16 bits.
"""

import argparse
import json
from pathlib import Path

from scipy.special import expit, logit
from tqdm import tqdm

from test_script.results.result_files import write_table
from utils.errors import InputError, run_main
from utils.files import atomic_path, check_writable
from utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from utils.metrics.curves import CurveAccumulator
from utils.metrics.saved_maps import Pair, check_groups, find_pairs, key_names, read_groups, read_names, read_pair
from utils.metrics.tables import areas_table, json_ready, metrics_table, protocols_text
from utils.plots import write_curves


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m test_script.evaluate", description=__doc__)
    parser.add_argument(
        "--predictions", type=Path, help="folder of NAME.npy or NAME.png, or of one folder per sequence"
    )
    parser.add_argument("--masks", type=Path, help="folder of masks of the same names, in the same folders")
    parser.add_argument(
        "--protocol",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="protocols to use, or 'all'; default standard",
    )
    parser.add_argument("--logits", action="store_true", help="predictions are logits (npy), not probabilities")
    parser.add_argument("--list", type=Path, metavar="FILE", help="measure only these images or sequences, one a line")
    parser.add_argument("--groups", type=Path, metavar="FILE.csv", help="also report the metrics of groups of images, "
                        "for instance by SNR: lines NAME,GROUP with the name of an image or a sequence")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the metrics, as ratios, as JSON")
    parser.add_argument("--per_image", type=Path, metavar="FILE.csv", help="write the metrics of each image, as ratios")
    parser.add_argument(
        "--curves",
        type=Path,
        metavar="DIR",
        help="write PR, ROC and Pd over Fa curves as csv and png",
    )
    parser.add_argument("--list_protocols", action="store_true", help="print the rules of each protocol and exit")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measure the predictions by each protocol; print the metrics and write the requested files."""
    args = build_parser().parse_args(argv)
    if args.list_protocols:
        print(protocols_text())
        return
    for option in ("predictions", "masks"):
        if getattr(args, option) is None:
            raise InputError(f"--{option} is missing; give the folder of {option}")
    asked = args.protocol or ["standard"]
    names = dict.fromkeys(name for one in asked for name in (PROTOCOLS if one == "all" else [one]))
    metrics = {name: build_metric(name) for name in names}
    groups = read_groups(args.groups) if args.groups else {}
    pairs = find_pairs(args.predictions, args.masks, read_names(args.list) if args.list else None)
    if groups:
        check_groups(groups, pairs)
    for file in (args.output, args.per_image, args.curves and args.curves / "curves.csv"):
        if file:
            check_writable(file)

    curves = measure(pairs, metrics, args.logits, with_curves="standard" in metrics or args.curves is not None)
    results = {name: collect(metric, curves, groups) for name, metric in metrics.items()}
    print_results(results)
    if args.output:
        with atomic_path(args.output) as path:
            path.write_text(json.dumps(json_ready(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.per_image:
        rows = ({"protocol": name} | one for name, metric in metrics.items() for one in metric.image_metrics())
        write_table(args.per_image, rows)
    if args.curves:
        for file in write_curves(merged(curves).compute(), args.curves):
            print(f"wrote {file}")


def measure(
    pairs: list[Pair], metrics: dict[str, MetricAccumulator], logits: bool, with_curves: bool
) -> dict[str | None, CurveAccumulator]:
    """Update the metric of each protocol with all predictions, on its scale; returns the curves by sequence."""
    curves: dict[str | None, CurveAccumulator] = {}
    for pair in tqdm(pairs, unit="image", disable=None):
        score, mask = read_pair(pair, logits)
        scales = {"probability": expit(score), "logit": score} if logits else {"probability": score}
        for metric in metrics.values():
            if metric.protocol.scale not in scales:
                scales["logit"] = logit(score)
            metric.update(scales[metric.protocol.scale], mask, pair.sequence, pair.frame)
        if with_curves:
            curves.setdefault(pair.sequence, CurveAccumulator()).update(scales["probability"], mask)
    return curves


def merged(curves: dict[str | None, CurveAccumulator]) -> CurveAccumulator:
    """The curves over all sequences."""
    total = CurveAccumulator()
    for part in curves.values():
        total.merge(part)
    return total


def collect(metric: MetricAccumulator, curves: dict[str | None, CurveAccumulator], groups: dict[str, str]) -> dict:
    """All metrics of one protocol, as the JSON has them: over the set, by target area, per sequence, per group."""
    standard = metric.protocol.name == "standard"
    result = metric.compute() | (curve_areas(merged(curves)) if standard else {"ap": None, "auc": None})
    result |= metric.counts() | {"by_area": metric.area_metrics()}
    sequences = metric.sequence_metrics()
    if sequences:
        result["sequence_mean"] = metric.sequence_mean()
        result["sequences"] = {
            name: one | (curve_areas(curves[name]) if standard else {}) for name, one in sequences.items()
        }
    if groups:
        result["groups"] = metric.split(
            lambda row: next((groups[name] for name in key_names((row.sequence, row.frame)) if name in groups), None)
        )
    return result


def curve_areas(curves: CurveAccumulator) -> dict[str, float]:
    """Average precision and area under ROC."""
    computed = curves.compute()
    return {"ap": computed.ap, "auc": computed.auc}


def print_results(results: dict[str, dict]) -> None:
    """Print all protocols, then the first one by target area, sequence and group."""
    first, result = next(iter(results.items()))
    print(f"{result['images']} images, {result['targets']} targets")
    print(metrics_table(results, "protocol"))
    print(f"\nPd by target area in px ({first})\n{areas_table(result['by_area'])}")
    if "sequences" in result:
        sequences = result["sequences"] | {"mean of sequences": result["sequence_mean"]}
        print(f"\n{metrics_table(sequences, f'sequence ({first})')}")
    if "groups" in result:
        print(f"\n{metrics_table(result['groups'], f'group ({first})')}")


if __name__ == "__main__":
    run_main(main)
