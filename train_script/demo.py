"""Show what the networks can do, in a few minutes; `make demo` runs this command.

First the shipped DATransNet finds the targets in real frames and a real clip that ship with this repository. Then it is
measured on rendered sequences with dim targets, fine-tuned briefly on other such sequences, and measured again. Each
step prints its command and how long it took. Existing data is used again, and an interrupted training continues.

Examples:

    python -m train_script.demo
"""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from istd.datasets import synthetic
from istd.test_script import figure, inference, predict
from istd.train_script import train
from istd.utils.command_line import command_parser
from istd.utils.errors import run_main
from istd.utils.metrics.tables import metrics_table

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "example"
TRAIN, TEST = Path("data/demo_train"), Path("data/demo_test")
OUTPUT = Path("predict/demo")
SHIPPED = "datransnet"
FINE_TUNED = "outputs/demo_train/make_demo/train/checkpoint_best.pth"
DIM = "--size 128 128 --snr 4 10"
# 120 steps of 8 crops of 64 px, about a minute's work for a single core
SHORT = (
    "--train_size 64 --batch_size 8 --epochs 4 --epoch_samples 240 --lr 0.0005 --ema 0.98 --val_every 2 --limit_val 24 "
    "--final_test false"
)


def main(argv: list[str] | None = None) -> None:
    """Run the steps of the demo."""
    command_parser("train_script.demo", __doc__).parse_args(argv)
    start = time.perf_counter()
    measure("Find the targets in real frames", SHIPPED, EXAMPLE, "real")
    clip, folder, picture = EXAMPLE / "drone.mp4", OUTPUT / "clip", OUTPUT / "real.png"
    step("Find the drone in a real clip", predict.main, f"--input {quoted(clip)} --output_dir {folder}")
    step("Draw a picture", figure.main, f"--input {quoted(EXAMPLE / 'images' / 'airplane.png')} --output {picture}")
    print(f"   look at {picture} and {folder / 'overlays' / 'drone.mp4'}")

    render(TRAIN, f"{DIM} --sequences 24 --frames 12 --seed 4")
    render(TEST, f"{DIM} --sequences 3 --frames 8 --val_share 1 --seed 5")
    measure("Measure the same network on rendered, dim targets", SHIPPED, TEST, "before")
    options = f"--dataset {TRAIN} --experiment_name make_demo --init_weights {SHIPPED} --resume auto"
    step("Fine-tune it on such sequences", train.main, f"--config fine_tune {options} {SHORT}")
    measure("Measure the fine-tuned network", FINE_TUNED, TEST, "after")

    results = {name: standard_metrics(OUTPUT / name) for name in ("before", "after")}
    print(f"\nDATransNet on {TEST}, before and after fine-tuning:\n{metrics_table(results, 'standard')}")
    print(f"{time.perf_counter() - start:.0f} s in all; look at {picture}, and open in a browser:")
    print(f"{OUTPUT / 'real' / 'report.html'} (real frames), {OUTPUT / 'after' / 'report.html'} (after fine-tuning)")


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


def measure(title: str, checkpoint: str, dataset: Path, name: str) -> None:
    """Run inference on a dataset of the demo, with its results in the folder `name`."""
    options = f"--model_path {checkpoint} --dataset {quoted(dataset)} --output_dir {OUTPUT / name}"
    step(title, inference.main, options)


def quoted(path: Path) -> str:
    """The path, as short as possible, for a command line."""
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(short))


def standard_metrics(folder: Path) -> dict[str, float | None]:
    """The metrics by protocol `standard` that inference wrote to `folder`."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["protocols"]["standard"]


if __name__ == "__main__":
    run_main(main)
