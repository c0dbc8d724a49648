"""The command `istd NAME OPTIONS`, which equals `python -m MODULE OPTIONS` in a checkout.

`istd --help` lists the names. PyTorch is imported only when a command runs.
"""

import difflib
import importlib
import sys
from typing import NamedTuple

from istd.utils.errors import InputError, run_main
from istd.utils.process import set_up_process


class Command(NamedTuple):
    """A module with a function `main`, and what it does."""

    module: str
    about: str


COMMANDS = {
    "train": Command("train_script.train", "train or fine-tune a network"),
    "inference": Command("test_script.inference", "test a checkpoint on a dataset"),
    "predict": Command("test_script.predict", "detect targets in images, videos, and camera streams"),
    "evaluate": Command("test_script.evaluate", "measure saved score maps, masks, or boxes of any method"),
    "export": Command("test_script.export", "write a network as ONNX or safetensors"),
    "benchmark": Command("test_script.benchmark", "measure size and speed of a network"),
    "matrix": Command("test_script.matrix", "measure several checkpoints on several datasets"),
    "pd_over_snr": Command("test_script.pd_over_snr", "compare networks on dim targets"),
    "track_curves": Command("test_script.track_curves", "measure how linking into tracks lowers false alarms"),
    "classical": Command("test_script.classical", "run a detector without learning"),
    "figure": Command("test_script.figure", "draw detections and score map of an image or video"),
    "check": Command("datasets.check", "check a dataset and draw its targets"),
    "from_boxes": Command("datasets.from_boxes", "make a dataset of images with boxes"),
    "synthetic": Command("datasets.synthetic", "render sequences with targets"),
    "dim": Command("datasets.dim", "dim the targets of sequences to a chosen SNR"),
    "links": Command("datasets.links", "print download links of datasets and published checkpoints"),
    "demo": Command("train_script.demo", "show what the networks can do, in a few minutes"),
}


def main(argv: list[str] | None = None) -> int | None:
    """Run the command that the first argument names, with the other arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    name, *options = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return None
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(COMMANDS)}"
        raise InputError(f"istd has no command {name}; {advice}")
    set_up_process()  # before torch is imported
    command = importlib.import_module(f"istd.{COMMANDS[name].module}")
    return command.main(options)


def overview() -> str:
    """What `istd --help` prints: a line for every command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    usage = "usage: istd COMMAND OPTIONS\n\nistd COMMAND --help lists the options of a command.\n\ncommands:"
    examples = "examples:\n  istd predict --input video.mp4\n  istd train --config fine_tune --dataset path/to/folder"
    return "\n".join([usage, *lines, "", examples])


def run() -> None:
    """The console script."""
    run_main(main)
