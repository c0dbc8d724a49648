"""A result in a few minutes: `python -m train_script.demo`, which `make demo` runs after the install.

First the shipped SGMP-UNet (small) finds bright targets in rendered frames. Then it is measured on sequences with
dimmer targets, fine-tuned briefly on others of that kind, and measured again. Each step prints its command and how long
it took. Rendered data that exists is used again, and an interrupted training continues.
"""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from istd.datasets import synthetic
from istd.test_script import inference
from istd.train_script import train
from istd.utils.errors import run_main
from istd.utils.metrics.tables import metrics_table

BRIGHT, TRAIN, TEST = Path("data/demo_bright"), Path("data/demo_train"), Path("data/demo_test")
OUTPUT = Path("predict/demo")
SHIPPED = "weights/sgmp_unet_small.pth"
FINE_TUNED = "outputs/demo_train/make_demo/train/checkpoint_best.pth"
DIMMER = "--size 128 128 --snr 4 10"


def main(argv: list[str] | None = None) -> None:
    """Run the steps of the demo."""
    start = time.perf_counter()
    render(BRIGHT, "--size 128 128 --snr 10 20 --sequences 3 --frames 4 --val_share 1 --seed 3")
    measure("Find bright targets with the shipped weights", SHIPPED, BRIGHT, "bright", "")
    render(TRAIN, f"{DIMMER} --sequences 24 --frames 12 --seed 4")
    render(TEST, f"{DIMMER} --sequences 3 --frames 8 --val_share 1 --seed 5")
    measure("Measure the shipped weights on dimmer targets", SHIPPED, TEST, "before", "--flip --msc")
    options = f"--config demo --dataset {TRAIN} --experiment_name make_demo --init_weights {SHIPPED} --resume auto"
    step("Fine-tune them on such sequences", train.main, options)
    measure("Measure the fine-tuned network", FINE_TUNED, TEST, "after", "--flip --msc")
    results = {name: standard_metrics(OUTPUT / name) for name in ("before", "after")}
    print(f"\nSGMP-UNet (small) on {TEST}, before and after fine-tuning:\n{metrics_table(results, 'standard')}")
    print(f"{time.perf_counter() - start:.0f} s in all; open {OUTPUT / 'after' / 'report.html'} in a browser")


def step(title: str, command: Callable[[list[str]], object], options: str) -> None:
    """Run the main function of a command; print the title, the command line, and the time it took."""
    print(f"\n== {title}\n   python -m {command.__module__.removeprefix('istd.')} {options}", flush=True)
    start = time.perf_counter()
    if status := command(shlex.split(options)):  # of a training that was interrupted
        raise SystemExit(status)
    print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def render(folder: Path, options: str) -> None:
    """Render sequences into `folder` unless it exists."""
    if not folder.exists():
        step(f"Render {folder}", synthetic.main, f"--output {folder} {options}")


def measure(title: str, checkpoint: str, dataset: Path, name: str, passes: str) -> None:
    """Run inference on a dataset of the demo, with its results in the folder `name`."""
    step(title, inference.main, f"--model_path {checkpoint} --dataset {dataset} {passes} --output_dir {OUTPUT / name}")


def standard_metrics(folder: Path) -> dict[str, float | None]:
    """The metrics by protocol `standard` that inference wrote to `folder`."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["protocols"]["standard"]


if __name__ == "__main__":
    run_main(main)
