"""Every setting of training: its name and type. Its value and meaning stand in configs/default.yaml."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from models import check_options
from train_script.old_settings import ALIASES, renamed
from utils.config import check_values, nearest, parse_arguments, read_options, read_values
from utils.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEMO = "demo"
SEEDS = 2**32
DESCRIPTION = """Train a network for infrared small target detection.

  python -m train_script.train                               SGMP-UNet on generated demo sequences, for a laptop
  python -m train_script.train --config datransnet_fast      DATransNet on NUDT-SIRST, modern recipe
  python -m train_script.train --config sgmp_unet_irdst      SGMP-UNet on IRDST, the published recipe
  python -m train_script.train --model datransnet --dataset path/to/your/folder
  torchrun --nproc_per_node=2 -m train_script.train ...      the same, shared between two processes

Where the datasets lie is said in datasets/path_config.py or with --data_root.
Settings: configs/default.yaml < --config < command line."""


@dataclass(frozen=True)
class Settings:
    """The merged settings of one run. No defaults here: configs/default.yaml has them all."""

    dataset: str
    dataset_weights: list[float]
    epoch_samples: int | None
    data_root: str | None
    preset: Literal["fast", "contrast", "sgmp_unet", "datransnet"]
    train_size: int
    val_size: int
    target_share: float
    limit_train: int | None
    limit_val: int | None
    num_workers: int

    model: str
    model_options: dict
    init: Literal["published", "low_prior"]
    init_weights: str | None
    pretrained_backbone: str | None

    loss: Literal["soft_iou", "focal_dice", "bce_soft_iou"]
    aux_weight: float

    epochs: int
    batch_size: int
    accumulate: int
    optimizer: Literal["adam", "adamw"]
    lr: float
    lr_backbone: float
    weight_decay: float
    clip_norm: float | None
    schedule: Literal["constant", "multi_step", "cosine_restarts", "one_cycle"]
    warmup_epochs: float
    milestones: list[int]
    step_factor: float
    restart_epochs: int
    lr_min: float
    ema: float

    device: str
    amp: Literal["auto", "none", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    seed: int

    val_every: int
    val_batch_size: int
    val_flip: bool
    protocol: str | None
    select_on: Literal["holdout", "test"]
    select_by: str | None

    output_root: str
    experiment_name: str | None
    resume: str | None
    save_steps: int
    keep_best: int
    tensorboard: bool
    final_test: bool


def find_config(name: str) -> Path:
    """A configuration by path, or by the name of a file in configs/ (with or without .yaml)."""
    path = Path(name)
    if path.is_file():
        return path
    ours = CONFIGS / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent == Path() and ours.is_file():
        return ours
    known = config_names()
    raise InputError(f"no configuration {name!r}{nearest(path.stem, known)}; ours are {', '.join(known)}")


def config_names() -> list[str]:
    """Names of the recipes in configs/."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "default")


def parse_command_line(argv: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    """The command line as (configuration or None, settings given). With no --config and no --dataset: the demo."""
    options = read_options(CONFIGS / "default.yaml", Settings)
    config, given = parse_arguments(options, argv, "python -m train_script.train", DESCRIPTION, config_names(), ALIASES)
    if config is None and not {"dataset", "resume"} & set(given):
        config = DEMO
    return config, given


def merge_settings(config: str | None, given: dict[str, Any], saved: dict[str, Any] | None = None) -> Settings:
    """Defaults < settings saved with a run that is continued < configuration < command line, checked.

    Model options add up as long as the model stays the same.
    """
    values = read_values(CONFIGS / "default.yaml", Settings)
    layers = [given]
    if config is not None:
        layers.insert(0, read_values(find_config(config), Settings, renamed))
    if saved is not None:
        layers.insert(0, check_values(renamed(saved), get_type_hints(Settings), "the checkpoint"))
    for layer in layers:
        kept = values["model_options"] if layer.get("model", values["model"]) == values["model"] else {}
        values |= layer | {"model_options": kept | layer.get("model_options", {})}
    values["model_options"] = check_options(values["model"], values["model_options"])
    settings = Settings(**values)
    check_ranges(settings)
    return settings


def check_ranges(settings: Settings) -> None:
    """Raise `InputError` for a number outside its range, or settings that contradict each other."""
    at_least = {
        1: "train_size val_size epochs batch_size accumulate val_every val_batch_size save_steps "
        "restart_epochs keep_best",
        0: "num_workers aux_weight lr lr_backbone weight_decay warmup_epochs lr_min",
    }
    for least, names in at_least.items():
        for name in names.split():
            if not getattr(settings, name) >= least:
                raise InputError(f"{name} is {getattr(settings, name)}, expected at least {least}")
    for name in ("limit_train", "limit_val", "epoch_samples"):
        if getattr(settings, name) is not None and getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}, expected at least 1, or none for all")
    if settings.clip_norm is not None and not settings.clip_norm > 0:
        raise InputError(f"clip_norm is {settings.clip_norm}, expected a number above 0, or none for no clipping")
    if not 0 <= settings.ema < 1:
        raise InputError(f"ema is {settings.ema}, expected 0 (off) or a decay below 1 such as 0.999")
    if not 0 <= settings.target_share <= 1:
        raise InputError(f"target_share is {settings.target_share}, expected a share between 0 and 1")
    if not 0 <= settings.seed < SEEDS:
        raise InputError(f"seed is {settings.seed}, expected a number from 0 to {SEEDS - 1}")
    if settings.schedule == "one_cycle" and settings.warmup_epochs:
        raise InputError("the one_cycle schedule warms up by itself; set warmup_epochs to 0")
    names = settings.dataset.split("+")
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"dataset is {settings.dataset!r}, expected names or folders, joined by '+' and all different")
    weights = settings.dataset_weights
    if weights and (len(weights) != len(names) or min(weights) <= 0):
        raise InputError(
            f"dataset_weights is {weights}, expected {len(names)} number(s) above 0, one for each dataset of "
            f"{settings.dataset}"
        )
    for name in ("experiment_name",):
        if getattr(settings, name) == "":
            raise InputError(f"{name} is empty; give a name")
    if "/" in (settings.experiment_name or ""):
        raise InputError(f"experiment_name {settings.experiment_name!r} holds a '/'; it is the name of one folder")


def changed_settings(old: dict[str, Any], new: Settings) -> list[str]:
    """'name old -> new' for every setting that differs from those saved with a run, but for where and how it runs."""
    place = {"resume", "data_root", "output_root", "experiment_name", "num_workers", "save_steps", "tensorboard"}
    return [
        f"{name} {old[name]} -> {value}"
        for name, value in asdict(new).items()
        if name not in place and name in old and old[name] != value
    ]
