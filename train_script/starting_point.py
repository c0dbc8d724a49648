"""Where a run begins: the settings, the folder and the checkpoint that a command line asks for."""

from pathlib import Path
from typing import Any, NamedTuple

from istd.models import is_external, short_name
from istd.train_script.run_folder import LAST, read_last
from istd.train_script.settings import DEMO, Settings, merge_settings, read_config
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.errors import InputError


class StartingPoint(NamedTuple):
    """`saved` is the checkpoint that the run continues from, None for a new run; `notes` are sentences for the log."""

    settings: Settings
    folder: Path
    saved: Checkpoint | None
    notes: list[str]


def find_start(config: str | None, given: dict[str, Any]) -> StartingPoint:
    """The starting point that the configuration and the options `given` on the command line ask for.

    A run that is continued by its path alone has the settings that were saved with it. A network that starts from
    weights of ours has the preset that they were trained with, unless another one is given, and where nothing names a
    network, it is theirs.
    """
    settings, notes = start_from_weights(config, given)
    folder, saved = find_run(settings, config)
    if saved and config is None:
        check_code_is_named(saved, given)
        return StartingPoint(merge_settings(None, given, saved.settings), folder, saved, [])
    if saved and settings.init_weights:
        taken = {"preset": chosen_preset(config, given) or saved.settings.get("preset", settings.preset)}
        if not names_network(config, given):
            check_code_is_named(saved, given)
            options = saved.settings.get("model_options", {}) | given.get("model_options", {})
            taken |= {"model": saved.settings.get("model", settings.model), "model_options": options}
        return StartingPoint(merge_settings(config, given | taken), folder, saved, [])
    return StartingPoint(settings, folder, saved, notes)


def start_from_weights(config: str | None, given: dict[str, Any]) -> tuple[Settings, list[str]]:
    """The merged settings, with the preset of the weights that the run starts from; and what to say of that."""
    settings = merge_settings(config, given)
    path = settings.init_weights
    if path is None:
        return settings, []
    try:
        weights = read_checkpoint(path)
    except InputError:
        if settings.resume:  # a run that is continued does not need them
            return settings, []
        raise
    if weights.kind != "ours":
        return settings, []
    taken = {}
    if not names_network(config, given) and not weights.code:
        options = weights.options | given.get("model_options", {})
        taken |= {"model": weights.model_name, "model_options": options}
    preset, chosen = weights.settings.get("preset"), chosen_preset(config, given)
    notes = []
    if preset and chosen is None:
        taken["preset"] = preset
        if preset != settings.preset:
            notes.append(f"preset {preset} instead of {settings.preset}, since {path} was trained with it")
    elif preset and preset != chosen:
        notes.append(f"warning: {path} was trained with preset {preset}, this run shows it frames of preset {chosen}")
    return merge_settings(config, given | taken), notes


def names_network(config: str | None, given: dict[str, Any]) -> bool:
    """Whether the command line or the configuration chooses a network."""
    return "model" in given or (config is not None and "model" in read_config(config))


def chosen_preset(config: str | None, given: dict[str, Any]) -> str | None:
    """The preset that the command line or a file of the user's chooses; a recipe of ours only proposes one."""
    from_file = read_config(config) if config and Path(config).is_file() else {}
    return given.get("preset", from_file.get("preset"))


def check_code_is_named(saved: Checkpoint, given: dict[str, Any]) -> None:
    """Raise `InputError` if a run of a network from the user's code is continued without naming that code."""
    model = str(saved.settings.get("model", ""))
    if is_external(model) and "model" not in given:
        raise InputError(
            f"{saved.path} is a run of {model}; code that only a checkpoint names is not run: add --model {model}"
        )


def find_run(settings: Settings, config: str | None) -> tuple[Path, Checkpoint | None]:
    """The run's folder, and the checkpoint to continue from if --resume asks for one.

    `auto` looks in the folder that the settings name, and begins there if nothing was begun.
    """
    name = settings.experiment_name or (Path(config).stem if config and config != DEMO else short_name(settings.model))
    dataset = "+".join(folder_name(part) for part in settings.datasets)
    folder = Path(settings.output_root) / dataset / name / "train"
    begun = (folder / LAST).exists()
    if settings.resume is None and begun:
        raise already_begun(folder)
    if settings.resume is None or (settings.resume == "auto" and not begun):
        return folder, None
    path = folder if settings.resume == "auto" else Path(settings.resume)
    return path if path.is_dir() else path.parent, read_last(path)


def folder_name(dataset: str) -> str:
    """The last part of a dataset's name or path; of `.` and `..`, which would lead elsewhere, that of their folder."""
    name = Path(dataset).name
    return name if name not in ("", "..") else Path(dataset).resolve().name


def already_begun(folder: Path) -> InputError:
    """The error for a new run in the folder of another."""
    return InputError(
        f"{folder} already holds a run; continue it with --resume auto, or choose another --experiment_name"
    )
