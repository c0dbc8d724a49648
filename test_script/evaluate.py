"""Measure saved predictions of any method: python -m test_script.evaluate --predictions DIR --masks DIR.

Predictions are probability maps, as those of `inference --save_maps`: npy [H, W], or png of 8 or 16 bits.
"""

import argparse
from pathlib import Path

from scipy.special import expit, logit
from tqdm import tqdm

from istd.test_script.results.result_files import write_image_metrics
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_json
from istd.utils.images import read_list
from istd.utils.metrics import MetricAccumulator, build_metrics
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import CurveAccumulator, collect_metrics, merge_curves
from istd.utils.metrics.saved_maps import Pair, find_pairs, key_names, read_groups, read_pair
from istd.utils.metrics.tables import areas_table, error_table, metrics_table, protocols_text
from istd.utils.plots import write_curves


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m test_script.evaluate", description=__doc__)
    add = parser.add_argument
    add("--predictions", type=Path, help="folder of NAME.npy or NAME.png, or of one folder per sequence")
    add("--masks", type=Path, help="folder of masks of the same names, in the same folders")
    protocols = "protocols to use, or 'all'; default standard"
    add("--protocol", nargs="+", action="extend", metavar="NAME", help=protocols)
    add("--logits", action="store_true", help="predictions are logits (npy), not probabilities")
    add("--list", type=Path, metavar="FILE", help="measure only these images or sequences, one per line")
    groups = "also report the metrics of groups of images, for instance by SNR: lines NAME,GROUP with the name of an "
    add("--groups", type=Path, metavar="FILE.csv", help=f"{groups}image or a sequence")
    add("--output", type=Path, metavar="FILE.json", help="write the metrics, as ratios, as JSON")
    add("--per_image", type=Path, metavar="FILE.csv", help="write the metrics of each image, as ratios")
    add("--curves", type=Path, metavar="DIR", help="write PR, ROC and Pd over Fa curves as csv and png")
    add("--list_protocols", action="store_true", help="print the rules of each protocol and exit")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure the predictions by each protocol; print the metrics and write the requested files."""
    args = parse_arguments(argv)
    if args.list_protocols:
        print(protocols_text())
        return
    for option in ("predictions", "masks"):
        if getattr(args, option) is None:
            raise InputError(f"--{option} is missing; give the folder of {option}")
    metrics = build_metrics(args.protocol or ["standard"])
    names = set(read_list(args.list)) if args.list else None
    if args.list and not names:
        raise InputError(f"--list {args.list} is empty; expected one name per line")
    pairs = find_pairs(args.predictions, args.masks, names)
    groups = read_groups(args.groups, pairs) if args.groups else {}
    for file in (args.output, args.per_image, args.curves and args.curves / "curves.csv"):
        if file:
            check_writable(file)

    curves = measure(pairs, metrics, args.logits, with_curves="standard" in metrics or args.curves is not None)
    results = {name: collect_metrics(metric, curves) for name, metric in metrics.items()}

    def group(row: ImageCounts) -> str | None:
        return next((groups[name] for name in key_names((row.sequence, row.frame)) if name in groups), None)

    for name, metric in metrics.items() if groups else ():
        results[name]["groups"] = metric.split(group)
    print_results(results)
    if args.output:
        write_json(args.output, results)
    if args.per_image:
        write_image_metrics(args.per_image, metrics)
    if args.curves:
        for file in write_curves(merge_curves(curves.values()).compute(), args.curves):
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


def print_results(results: dict[str, dict]) -> None:
    """Print all protocols, then the first one by target area, sequence and group."""
    first, result = next(iter(results.items()))
    print(f"{result['images']} images, {result['targets']} targets")
    print(metrics_table(results, "protocol"))
    if errors := error_table(results, "protocol"):
        print(f"\nhIoU and what each error takes from it, in %\n{errors}")
    print(f"\nPd by target area in px ({first})\n{areas_table(result['by_area'])}")
    if "sequences" in result:
        sequences = result["sequences"] | {"mean of sequences": result["sequence_mean"]}
        print(f"\n{metrics_table(sequences, f'sequence ({first})')}")
    if "groups" in result:
        print(f"\n{metrics_table(result['groups'], f'group ({first})')}")


if __name__ == "__main__":
    run_main(main)
