"""What commands import before they begin: libraries that take seconds only where they are used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = (  # commands that only read files, and two that import the network with its weights
    "datasets.check", "datasets.from_boxes", "datasets.synthetic", "datasets.dim", "datasets.links",
    "test_script.evaluate", "test_script.classical", "test_script.predict", "test_script.figure",
)  # fmt: skip
WITH_TORCH = ("test_script.inference", "test_script.export", "train_script.train")
SLOW = (
    "torch._dynamo", "torchvision", "timm", "huggingface_hub", "matplotlib",
    "scipy.optimize", "scipy.sparse", "scipy.io",
)  # fmt: skip


def test_slow_libraries_are_imported_where_they_are_used():
    """In a process of its own; most commands start without PyTorch, and all of them without the libraries of `SLOW`."""
    code = f"""
import importlib, sys
for commands, slow in (({WITHOUT_TORCH}, {("torch", *SLOW)}), ({WITH_TORCH}, {SLOW})):
    for command in commands:
        importlib.import_module(f"istd.{{command}}")
        print(*[f"{{command}} imports {{name}}" for name in slow if name in sys.modules], sep="\\n", end="")
import torch
from istd.models import load_model
from istd.utils.tracking import link
load_model("datransnet")(torch.rand(1, 1, 1, 32, 32))
link([(0, [(3, 4), (7, 7)])])
print(*[f"an image imports {{name}}" for name in {SLOW} if name in sys.modules], sep="\\n", end="")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
