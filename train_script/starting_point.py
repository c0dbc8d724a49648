"""Where a run begins: the settings, the folder and the checkpoint that a command line asks for."""

from pathlib import Path
from typing import Any, NamedTuple

from istd.models import is_external, short_name
from istd.train_script.run_folder import LAST, check_unused, read_last
from istd.train_script.settings import DEMO, Settings, merge_settings, read_config
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.errors import InputError


class StartingPoint(NamedTuple):
    """`saved` is the checkpoint that the run continues from, None for a new run; `notes` are sentences for the log."""

    settings: Settings
    folder: Path
    saved: Checkpoint | None
    notes: list[str]


def find_start(config: str | None, options: dict[str, Any]) -> StartingPoint:
    """The starting point that a configuration and the options of the command line ask for.

    A run that is continued by its path alone keeps its saved settings. A run that starts from our weights takes over
    their preset unless another is chosen, and their network unless a network is named.
    """
    settings, notes = start_from_weights(config, options)
    folder, saved = find_run(settings, config)
    if saved and config is None:
        check_code_is_named(saved, options)
        settings, notes = merge_settings(None, options, saved.settings), []
    elif saved and settings.init_weights:
        taken = inherit(config, options, saved.settings)
        if "model" in taken:
            check_code_is_named(saved, options)
        settings, notes = merge_settings(config, options | taken), []
    return StartingPoint(settings, folder, saved, notes)


def start_from_weights(config: str | None, options: dict[str, Any]) -> tuple[Settings, list[str]]:
    """The merged settings, with the network and the preset of the weights that the run starts from, and notes on it."""
    settings = merge_settings(config, options)
    if settings.init_weights is None:
        return settings, []
    try:
        weights = read_checkpoint(settings.init_weights)
    except InputError:
        if settings.resume:  # a run that is continued does not need them
            return settings, []
        raise
    if weights.kind != "ours":
        return settings, []
    preset = weights.settings.get("preset")
    network = {"model": weights.model_name, "model_options": weights.options}
    taken = inherit(config, options, {"preset": preset} | ({} if weights.code else network))
    merged, path = merge_settings(config, options | taken), settings.init_weights
    if preset and merged.preset != preset:
        change = f"this run shows it frames of preset {merged.preset}"
        return merged, [f"warning: {path} was trained with preset {preset}, {change}"]
    if preset and settings.preset != preset:
        return merged, [f"preset {preset} instead of {settings.preset}, since {path} was trained with it"]
    return merged, []


def inherit(config: str | None, options: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The network and the preset of the `earlier` settings unless the command line or the configuration chooses them;
    the presets of shipped recipes do not count."""
    from_file = read_config(config) if config else {}
    taken = {}
    if "model" in earlier and "model" not in options | from_file:
        model_options = earlier.get("model_options", {}) | options.get("model_options", {})
        taken = {"model": earlier["model"], "model_options": model_options}
    proposed = {} if config and Path(config).is_file() else {"preset"}
    if earlier.get("preset") and "preset" not in options.keys() | from_file.keys() - proposed:
        taken["preset"] = earlier["preset"]
    return taken


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
