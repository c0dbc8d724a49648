"""Kinetics-400 weights of torchvision's Video Swin-T for the temporal branch of SGMP-UNet."""

import re
import urllib.error

import torch
from torch import nn
from torchvision.models.video import Swin3D_T_Weights

from utils.distributed import barrier, is_main
from utils.errors import InputError

DOWNLOAD = "download"
WEIGHTS = Swin3D_T_Weights.KINETICS400_V1


def load_pretrained_backbone(model: nn.Module, source: str) -> None:
    """Fill the temporal branch from `source`: a file of torchvision's `swin3d_t` weights, or `download`.

    The classification head is dropped. Raises `InputError` for a network without that branch, a failed download, or a
    file that is something else.
    """
    if model.name != "sgmp_unet":
        raise InputError(f"{model.name} has no pretrained backbone; leave --pretrained_backbone at none")
    weights = _download() if source == DOWNLOAD else _read(source)
    renamed = {name: weight for old, weight in weights.items() if (name := our_name(old))}
    own = model.state_dict()
    strange = [name for name, weight in renamed.items() if name not in own or own[name].shape != weight.shape]
    missing = [name for name in own if _is_temporal(name) and name not in renamed]
    if strange or missing:
        raise InputError(
            f"{source} does not hold torchvision's swin3d_t weights: {len(missing)} missing, {len(strange)} of another "
            f"name or shape (first: {(missing + strange)[0]}); use `download`, or the file {WEIGHTS.url}"
        )
    model.load_state_dict(renamed, strict=False)


def our_name(name: str) -> str | None:
    """SGMP-UNet's name of a weight of `swin3d_t`, whose `features` alternate blocks and mergings; None for its head."""
    if match := re.match(r"features\.(\d+)\.(.*)", name):
        index = int(match[1])
        part = "merge" if index % 2 else "temporal"
        return f"encoder.stages.{(index + 1) // 2}.{part}.{match[2]}"
    return None if name.startswith("head.") else f"encoder.{name}"


def _is_temporal(name: str) -> bool:
    return bool(re.match(r"encoder\.(patch_embed|norm|stages\.\d+\.(merge|temporal))\.", name))


def _download() -> dict[str, torch.Tensor]:
    """The weights from PyTorch's server, kept in torch's cache; the main process fetches them first."""
    try:
        weights = WEIGHTS.get_state_dict(progress=is_main(), check_hash=True) if is_main() else None
        barrier()
        return weights or WEIGHTS.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download the Kinetics-400 weights: {error}; fetch {WEIGHTS.url} elsewhere and give the file with "
            "--pretrained_backbone FILE, or none to start from random weights"
        ) from error


def _read(path: str) -> dict[str, torch.Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader stumble in a dozen ways
        raise InputError(
            f"cannot read the backbone weights {path}; give torchvision's swin3d_t file ({WEIGHTS.url}), or `download`"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise InputError(f"{path} is no dict of tensors; give torchvision's swin3d_t file ({WEIGHTS.url})")
    return weights
