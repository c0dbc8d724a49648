"""The settings of training: names, types and ranges. Defaults and explanations stand in configs/default.yaml."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from istd.datasets.augmentations import build_augmentations
from istd.datasets.catalog import CATALOG
from istd.datasets.index import split_names
from istd.datasets.presets import PRESETS
from istd.models import MODELS, check_options, is_external, model_options, short_name
from istd.train_script.losses import LOSSES, check_loss_options
from istd.utils.amp_names import AMP_NAMES
from istd.utils.checkpoint import current_preset
from istd.utils.config import check_values, convert, nearest, parse_arguments, read_values
from istd.utils.errors import InputError
from istd.utils.grey_levels import parse_range
from istd.utils.names import counted

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = CONFIGS / "default.yaml"
DEMO = "demo"
SEEDS = 2**32
DESCRIPTION = """Train a network for infrared small-target detection.

The command line overrides --config, which overrides configs/default.yaml. The folders of the datasets are listed in
datasets/path_config.py. Defaults stand in brackets. Ctrl-C stops a run, and --resume auto continues it.

Examples:

    python -m train_script.train                             the compact SGMP-UNet on rendered sequences, for a laptop
    python -m train_script.train --config datransnet_fast    DATransNet on NUDT-SIRST, in few epochs of small crops
    python -m train_script.train --config sgmp_unet --dataset IRDST    SGMP-UNet as published
    python -m train_script.train --config fine_tune --dataset path/to/folder    the shipped DATransNet, fine-tuned
    python -m train_script.train --model datransnet --dataset path/to/folder    from scratch on your images and masks
    torchrun --nproc_per_node=2 -m train_script.train --config datransnet_fast    shared between two processes
"""

Count = Annotated[int, lambda number: number >= 1, "at least 1"]
Samples = Annotated[int, lambda number: 1 <= number <= 10**8, "a number from 1 to 100000000"]
Side = Annotated[int, lambda number: 32 <= number <= 8192, "a number of pixels from 32 to 8192"]
NaturalNumber = Annotated[int, lambda number: number >= 0, "at least 0"]
NonNegative = Annotated[float, lambda number: number >= 0, "at least 0"]
Positive = Annotated[float, lambda number: number > 0, "a number above 0"]
Share = Annotated[float, lambda number: 0 <= number <= 1, "a share from 0 to 1"]
Decay = Annotated[float, lambda number: 0 <= number < 1, "0 (off) or a decay below 1 such as 0.999"]
Seed = Annotated[int, lambda number: 0 <= number < SEEDS, f"a number from 0 to {SEEDS - 1}"]
ModelName = Annotated[
    str,
    lambda name: name in MODELS or is_external(name),
    f"one of {', '.join(MODELS)}, or code: path/to/net.py:ClassName or package.module.ClassName",
]
FolderName = Annotated[
    str,
    lambda text: text not in ("", ".", "..") and not {"/", "\0"} & set(text),
    "the name of one folder, without '/'",
]

# Settings of earlier versions, which configurations and checkpoints may still hold.
MODEL_OPTIONS = ("num_frames", "image_size")  # options that were settings, saved for every model

# Settings that became constants, with their values: checkpoints that hold them still load.
REMOVED = {
    "target_share": 0.75,
    "warmup_epochs": 0.0,
    "step_factor": 0.1,
    "restart_epochs": 10,
    "lr_min": 1e-7,
    "channels_last": False,
    "compile_mode": "default",
}

# Settings of runs whose checkpoints do not record them: several processes always shared the statistics of batch norms.
EARLIER = {"sync_bn": True}

# Mappings, and the setting that each of them belongs to.
ADDED = {"model_options": "model", "interface": "model", "loss_options": "loss"}

# Where and how a run computes, which may change when it is continued.
HARMLESS = ("resume", "data_root", "output_root", "experiment_name", "num_workers", "compile", "graphs",
            "grad_checkpoint", "save_steps", "tensorboard", "log", "seeds")  # fmt: skip

# Options of the command line: old name -> (name, function that translates its text).
ALIASES: dict[str, tuple[str, Callable[[str], str]]] = {
    **{name: ("model_options", f"{name}={{}}".format) for name in MODEL_OPTIONS},
    "start": ("init", lambda text: "low_prior" if text == "quiet" else text),
}


@dataclass(frozen=True)
class Settings:
    """The merged settings of a run."""

    dataset: str
    dataset_weights: list[Positive]
    epoch_samples: Samples | None
    data_root: str | None
    range: list[str]
    skip_unusable: bool
    split_folder: str | None
    preset: Annotated[Literal[tuple(PRESETS)], current_preset]
    train_size: Annotated[int, lambda number: 1 <= number <= 8192, "a number of pixels from 1 to 8192"]
    enlarge_share: Share
    augment: list[str]
    augment_options: dict
    val_size: Side | None
    limit_train: Count | None
    limit_val: Count | None
    num_workers: NaturalNumber | None

    model: ModelName
    model_options: dict
    interface: dict
    init: Literal["published", "low_prior"]
    init_weights: str | None
    init_partial: bool
    pretrained_backbone: str | None

    loss: Literal[tuple(LOSSES)]
    loss_options: dict
    aux_weight: NonNegative
    output_weights: dict

    epochs: Count
    start_epoch: NaturalNumber
    batch_size: Count
    accumulate: Count
    optimizer: Literal["adam", "adamw"]
    lr: NonNegative
    lr_backbone: NonNegative
    weight_decay: NonNegative
    decay_norms: bool
    lr_scales: dict
    freeze: list[str]
    warmup_steps: NaturalNumber
    clip_norm: Positive | None
    schedule: Literal["constant", "multi_step", "cosine_restarts", "one_cycle"]
    milestones: list[int]
    ema: Decay
    recalibrate_norm: Count | None

    device: str
    amp: Literal[AMP_NAMES]
    compile: bool
    grad_checkpoint: bool
    graphs: bool | None
    tf32: bool
    sync_bn: bool
    seed: Seed
    seeds: list[Seed]

    val_every: Count
    val_batch_size: Count
    val_flip: bool
    protocol: str | None
    select_on: Literal["holdout", "test", "none"]
    select_by: str | None

    output_root: str
    experiment_name: FolderName | None
    resume: str | None
    save_steps: Count | None
    keep_best: Count
    tensorboard: bool
    log: Literal["tensorboard", "wandb"]
    final_test: bool

    @property
    def datasets(self) -> list[str]:
        """The names or folders in `dataset`."""
        return split_names(self.dataset)


def config_names() -> list[str]:
    """Names of the recipes in configs/."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path != DEFAULTS)


def read_config(name: str) -> dict[str, Any]:
    """The settings of a configuration, by its path or the name of a recipe in configs/.

    RECIPE_DATASET, such as sgmp_unet_irdst, is a recipe with a dataset of the catalog.
    """
    path = Path(name)
    if path.is_file():
        return read_values(path, Settings, rename_settings)
    recipes, asked = config_names(), name.removesuffix(".yaml")
    for recipe in recipes:
        named = {f"{recipe}_{dataset}".lower().replace("-", "_"): {"dataset": dataset} for dataset in CATALOG}
        named[recipe] = {}
        if asked in named:
            return read_values(CONFIGS / f"{recipe}.yaml", Settings) | named[asked]
    raise InputError(f"no recipe {name!r}{nearest(path.stem, recipes)}; the shipped recipes are {', '.join(recipes)}")


def rename_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings from a configuration or a checkpoint under their present names."""
    values = dict(values)
    if "start" in values:
        values["init"] = ALIASES["start"][1](values.pop("start"))
    if str(values.get("compile")).lower() in ("none", "null"):  # left it to the device
        values.pop("compile", None)
    options = {name: values.pop(name) for name in MODEL_OPTIONS if name in values}
    if values.get("model") in MODELS:  # an option of another model had no effect
        options = {name: value for name, value in options.items() if name in model_options(values["model"])}
    return values | {"model_options": options | (values.get("model_options") or {})} if options else values


def parse_command_line(argv: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    """The command line as (configuration or None, options). With no --config and no --dataset: the demo."""
    prog = "python -m train_script.train"
    config, options = parse_arguments(DEFAULTS, Settings, argv, prog, DESCRIPTION, config_names(), ALIASES)
    if config is None and "dataset" not in options and options.get("resume") in (None, "auto"):
        config = DEMO
    return config, options


def merge_settings(config: str | None, options: dict[str, Any], saved: dict[str, Any] | None = None) -> Settings:
    """Defaults < published sizes < settings saved with a run that is continued < configuration < command line, checked.

    Settings of ADDED add up over these layers as long as the model, or the loss, is the same.
    """
    values = read_values(DEFAULTS, Settings)
    kept = {name: value for name, value in rename_settings(saved or {}).items() if name not in REMOVED}
    layers = [check_values(kept, get_type_hints(Settings, include_extras=True), "the checkpoint")]
    layers += [read_config(config) if config is not None else {}, options]
    merged = {name: value for layer in (values, *layers) for name, value in layer.items()}
    for layer in [published_sizes(merged), *layers]:
        kept = {
            name: values[name] if short_name(layer.get(part, values[part])) == short_name(values[part]) else {}
            for name, part in ADDED.items()
        }
        values |= layer | {name: before | layer.get(name, {}) for name, before in kept.items()}
    values["model_options"] = check_options(values["model"], values["model_options"])
    values["loss_options"] = check_loss_options(values["loss"], values["loss_options"])
    for name in ("lr_scales", "output_weights"):
        values[name] = {key: convert(f"{name} {key}", value, NonNegative) for key, value in values[name].items()}
    settings = Settings(**values)
    build_augmentations(settings.augment, settings.augment_options)  # names and options are known
    check_datasets(settings)
    parse_range(settings.range)
    if settings.start_epoch >= settings.epochs:
        raise InputError(f"start_epoch is {settings.start_epoch}, expected less than epochs ({settings.epochs})")
    return settings


def published_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a published preset: from the dataset's paper if the catalog has it, else the preset's.

    Datasets whose sizes differ get the preset's, too.
    """
    preset, model = values["preset"], values["model"]
    published = {info.name.lower(): info.image_size for info in CATALOG.values() if info.preset == preset}
    default = PRESETS[preset].size
    sizes = {published.get(Path(name).name.lower(), default) for name in split_names(values["dataset"])}
    size = sizes.pop() if len(sizes) == 1 else default
    if size is None:
        return {}
    options = {"image_size": size} if preset == model and "image_size" in model_options(model) else {}
    return {"train_size": size, "model": model, "model_options": options}


def check_datasets(settings: Settings) -> None:
    """Raise `InputError` for an empty or repeated dataset, or unequal numbers of weights and datasets."""
    names, weights = settings.datasets, settings.dataset_weights
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"dataset is {settings.dataset!r}, expected names or folders, joined by '+' and all different")
    if weights and len(weights) != len(names):
        raise InputError(
            f"dataset_weights is {weights}, expected {counted(len(names), 'number')} above 0, for the datasets of "
            f"{settings.dataset}"
        )


def changed_settings(old: dict[str, Any], new: Settings) -> list[str]:
    """'name old -> new' for every setting that differs from its value saved with a run and is not in HARMLESS."""
    before = rename_settings(old)
    return [
        f"{name} {before[name]} -> {value}"
        for name, value in (asdict(new) | REMOVED).items()
        if name not in HARMLESS and name in before and before[name] != value
    ]
