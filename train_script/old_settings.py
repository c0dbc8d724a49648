"""Settings of earlier versions of this code under today's names."""

from collections.abc import Callable
from typing import Any

from models import MODELS, model_options

MODEL_OPTIONS = ("num_frames", "image_size")  # were settings of their own, saved for every model

# Settings that are constants now, and the constants: checkpoints that hold them go on loading.
REMOVED = {
    "target_share": 0.75,
    "warmup_epochs": 0.0,
    "step_factor": 0.1,
    "restart_epochs": 10,
    "lr_min": 1e-7,
    "channels_last": False,
}

# Options of the command line: old name -> (name, what becomes of its text).
ALIASES: dict[str, tuple[str, Callable[[str], str]]] = {
    **{name: ("model_options", f"{name}={{}}".format) for name in MODEL_OPTIONS},
    "start": ("init", lambda text: "low_prior" if text == "quiet" else text),
}


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings from a configuration or a checkpoint under today's names."""
    values = dict(values)
    if "start" in values:
        values["init"] = ALIASES["start"][1](values.pop("start"))
    options = {name: values.pop(name) for name in MODEL_OPTIONS if name in values}
    if values.get("model") in MODELS:  # an option of another model had no effect
        options = {name: value for name, value in options.items() if name in model_options(values["model"])}
    return values | {"model_options": options | (values.get("model_options") or {})} if options else values
