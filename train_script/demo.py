"""A result in a few minutes: `python -m train_script.demo`, which `make demo` runs after the install.

First the networks of weights/ at work: DATransNet on single rendered images, then SGMP-UNet (small) on rendered
sequences. Then SGMP-UNet is fine-tuned briefly on other sequences of that kind and measured again. Each step prints its
command and how long it took. A step whose output exists is skipped, and an interrupted training goes on.
"""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from datasets import synthetic
from test_script import inference
from train_script import train
from utils.errors import run_main
from utils.metrics.tables import metrics_table

IMAGES, TRAIN, TEST = Path("data/demo_images"), Path("data/demo_train"), Path("data/demo_test")
OUTPUT = Path("predict/demo")
SINGLE_FRAME, MULTI_FRAME = "weights/datransnet.pth", "weights/sgmp_unet_small.pth"
FINE_TUNED = "outputs/demo_train/make_demo/train/checkpoint_best.pth"
SCENES = "--size 128 128 --snr 4 10 --frames 12"


def main(argv: list[str] | None = None) -> None:
    """Run the steps of the demo."""
    start = time.perf_counter()
    if not IMAGES.exists():
        step("Render single images", synthetic.main, f"--output {IMAGES} --clutter varied --sequences 8 --frames 1 "
             "--size 256 256 --snr 8 20 --val_share 1 --seed 3")  # fmt: skip
    measure("Find their targets with DATransNet", SINGLE_FRAME, IMAGES, "single_frame", "")
    if not TRAIN.exists():
        step("Render sequences to train on", synthetic.main, f"--output {TRAIN} {SCENES} --sequences 24 --seed 4")
    if not TEST.exists():
        step(
            "Render others to test on", synthetic.main, f"--output {TEST} {SCENES} --sequences 2 --val_share 1 --seed 5"
        )
    measure("Find their targets with SGMP-UNet (small)", MULTI_FRAME, TEST, "before", "--flip --msc")
    step("Fine-tune it on rendered sequences", train.main, f"--config demo --dataset {TRAIN} "
         f"--experiment_name make_demo --init_weights {MULTI_FRAME} --resume auto")  # fmt: skip
    measure("Test the fine-tuned network", FINE_TUNED, TEST, "after", "--flip --msc")
    results = {name: standard_metrics(OUTPUT / name) for name in ("before", "after")}
    print(f"\nSGMP-UNet (small) on {TEST}, before and after fine-tuning:\n{metrics_table(results, 'standard')}")
    print(f"{time.perf_counter() - start:.0f} s in all; open {OUTPUT / 'after' / 'report.html'} in a browser")


def step(title: str, command: Callable[[list[str]], object], options: str) -> None:
    """Run the main function of a command; print the title, the command line, and the time it took."""
    print(f"\n== {title}\n   python -m {command.__module__} {options}", flush=True)
    start = time.perf_counter()
    if status := command(shlex.split(options)):  # of a training that was interrupted
        raise SystemExit(status)
    print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def measure(title: str, checkpoint: str, dataset: Path, name: str, passes: str) -> None:
    """Run inference on a dataset of the demo, with its results in the folder `name`."""
    step(title, inference.main, f"--model_path {checkpoint} --dataset {dataset} {passes} --output_dir {OUTPUT / name}")


def standard_metrics(folder: Path) -> dict[str, float | None]:
    """The metrics by protocol `standard` that inference wrote to `folder`."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["protocols"]["standard"]


if __name__ == "__main__":
    run_main(main)
