"""Where a run begins: the settings, the folder and the checkpoint that a command line asks for."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from istd.models import build_model, is_external, recognise_network, short_name
from istd.test_script.predictor.preparation import preset_of
from istd.train_script.run_folder import LAST, check_unused, read_last
from istd.train_script.settings import DEFAULTS, DEMO, Settings, merge_settings, read_config
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.config import read_values
from istd.utils.errors import InputError


class StartingPoint(NamedTuple):
    """`saved` is the checkpoint that the run continues from, None for a new run; `notes` are sentences for the log."""

    settings: Settings
    folder: Path
    saved: Checkpoint | None
    notes: list[str]


def find_start(config: str | None, options: dict[str, Any]) -> StartingPoint:
    """The starting point that a configuration and the options of the command line ask for.

    A run that is continued by its path alone keeps its saved settings. A run that starts from weights takes over their
    preset unless another is chosen, and their network unless another is named.
    """
    settings, notes = start_from_weights(config, options)
    folder, saved = find_run(settings, config)
    if saved and config is None:
        check_code_is_named(saved, options)
        settings, notes = merge_settings(None, options, saved.settings), []
    elif saved and settings.init_weights:
        check_code_is_named(saved, read_config(config) | options)
        settings, notes = inherit(config, options, saved.settings), []
    return StartingPoint(settings, folder, saved, notes)


def start_from_weights(config: str | None, options: dict[str, Any]) -> tuple[Settings, list[str]]:
    """The merged settings, with the network and the preset of the weights that the run starts from, and notes on it."""
    asked = read_values(DEFAULTS, Settings) | (read_config(config) if config else {}) | options
    path = asked["init_weights"]
    if path is None:
        return merge_settings(config, options), []
    try:
        weights = read_checkpoint(path)
    except InputError:
        if asked["resume"]:  # a run that is continued does not need them
            return merge_settings(config, options), []
        raise
    earlier = describe_weights(weights, asked)
    merged, preset = inherit(config, options, earlier), earlier["preset"]
    if preset and merged.preset != preset:
        change = f"this run shows it frames of preset {merged.preset}"
        return merged, [f"warning: {path} was trained with preset {preset}, {change}"]
    if preset and asked["preset"] != preset:
        return merged, [f"preset {preset} instead of {asked['preset']}, since {path} was trained with it"]
    return merged, []


def describe_weights(weights: Checkpoint, asked: dict[str, Any]) -> dict[str, Any]:
    """The settings of weights: the preset that they were trained with, and their network, as far as they are known.

    `asked`: the settings of the run. Raises `InputError` for a network from the user's code if its code is not named.
    """
    preset = weights.settings.get("preset") if weights.kind == "ours" else None
    code = [asked["model"]] if is_external(asked["model"]) else []
    try:
        name, options, interface = recognise_network(weights, code, asked["model_options"])
    except InputError:
        if weights.code and not (asked["init_partial"] or asked["resume"]):
            raise
        return {"preset": preset}
    if weights.kind == "published" and not code:
        with torch.device("meta"):
            preset = preset_of(build_model(name, **options), {})
    return {"preset": preset, "model": name, "model_options": options, "interface": interface}


def inherit(config: str | None, options: dict[str, Any], earlier: dict[str, Any]) -> Settings:
    """The merged settings, with the network and the preset of the `earlier` settings unless the command line or the
    configuration chooses them; the presets of shipped recipes do not count.

    A network from the user's code, which has to be named, has its options and interface from the `earlier` settings.
    """
    named = ((read_config(config) if config else {}) | options).get("model")
    is_same = named is None or (is_external(named) and short_name(named) == short_name(earlier.get("model", "")))
    names = ("preset", "model", "model_options", "interface") if is_same else ("preset",)
    kept = {name: earlier[name] for name in names if earlier.get(name)}
    if "preset" in kept and config and not Path(config).is_file():
        options = {"preset": kept["preset"]} | options
    return merge_settings(config, options, kept)


def check_code_is_named(saved: Checkpoint, options: dict[str, Any]) -> None:
    """Raise `InputError` if a run of a network from the user's code is continued without naming that code."""
    model = str(saved.settings.get("model", ""))
    if is_external(model) and "model" not in options:
        raise InputError(
            f"{saved.path} is a run of {model}; code that only a checkpoint names is not run: add --model {model}"
        )


def find_run(settings: Settings, config: str | None) -> tuple[Path, Checkpoint | None]:
    """The run's folder, and the checkpoint to continue from if --resume asks for one.

    `auto` looks in the folder that the settings name, and begins there if nothing was begun.
    """
    folder = name_folder(settings, config)
    begun = (folder / LAST).exists()
    if settings.resume is None or (settings.resume == "auto" and not begun):
        check_unused(folder)
        return folder, None
    path = folder if settings.resume == "auto" else Path(settings.resume)
    return path if path.is_dir() else path.parent, read_last(path)


def name_folder(settings: Settings, config: str | None) -> Path:
    """The folder that the settings of a run name."""
    name = settings.experiment_name or (Path(config).stem if config and config != DEMO else short_name(settings.model))
    dataset = "+".join(map(last_component, settings.datasets))
    return Path(settings.output_root) / dataset / name / "train"


def last_component(dataset: str) -> str:
    """The last component of a dataset's name or path; for `.` and `..`, the name of the folder that they lead to."""
    name = Path(dataset).name
    return name if name not in ("", "..") else Path(dataset).resolve().name
