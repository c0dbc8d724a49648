"""Pretrained weights of torchvision for the part of a network that starts from them."""

import re
import urllib.error

from torch import Tensor
from torchvision.models import WeightsEnum

from models import Network
from utils.checkpoint import read_checkpoint
from utils.distributed import barrier, is_main
from utils.errors import InputError

DOWNLOAD = "download"


def load_pretrained_backbone(model: Network, source: str) -> None:
    """Fill `model` from `source`: a file of torchvision's weights that its class names as `pretrained`, or `download`.

    Raises `InputError` for a network without such a part, a failed download, or weights that do not fit.
    """
    if model.pretrained is None:
        raise InputError(f"{model.name} has no pretrained backbone; leave --pretrained_backbone at none")
    weights = _download(model.pretrained) if source == DOWNLOAD else read_checkpoint(source).weights
    renamed = model.from_pretrained(weights)
    own = model.state_dict()
    strange = [name for name, weight in renamed.items() if name not in own or own[name].shape != weight.shape]
    missing = [name for name in own if re.match(model.pretrained_part, name) and name not in renamed]
    if strange or missing:
        raise InputError(
            f"the weights of {source} do not fit {model.name} with options {model.options}: {len(missing)} missing, "
            f"{len(strange)} of another name or shape (first: {(missing + strange)[0]}); expected torchvision's "
            f"{model.pretrained}, from `download` or {model.pretrained.url}, and a network of its size"
        )
    model.load_state_dict(renamed, strict=False)


def _download(pretrained: WeightsEnum) -> dict[str, Tensor]:
    """The weights from PyTorch's server, kept in torch's cache; the main process fetches them first."""
    try:
        weights = pretrained.get_state_dict(progress=True, check_hash=True) if is_main() else None
        barrier()
        return weights or pretrained.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download {pretrained}: {error}; fetch {pretrained.url} elsewhere and give the file with "
            "--pretrained_backbone FILE, or none to start from random weights"
        ) from error
