"""Infrared small-target detection: networks, data, training, inference, and metrics.

    import istd
    predictor = istd.Predictor.from_checkpoint("datransnet")

The packages `istd.models`, `istd.datasets`, `istd.train_script`, `istd.test_script` and `istd.utils` are the folders of
the same names beside this one. Under the name `istd` they coexist with other packages called `datasets` or `models`.
Importing `istd` imports nothing else; PyTorch comes with the first use of a name.
"""

import importlib
from pathlib import Path
from typing import Any

__path__.append(str(Path(__file__).resolve().parents[1]))

_MODULES = {
    "Predictor": "istd.test_script.predictor",
    "build_metric": "istd.utils.metrics",
    "load_model": "istd.models",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
