"""The networks: `build_model(name, **options)`, and `load_model(path)` for a checkpoint of any known format."""

import functools
import inspect
from pathlib import Path

from torch import nn

from models.datransnet import DATransNet
from models.sgmp_unet import SMALL, SGMPUNet
from utils.checkpoint import load_weights, read_checkpoint
from utils.errors import InputError

MODELS = {
    "sgmp_unet": SGMPUNet,
    "sgmp_unet_small": functools.partial(SGMPUNet, **SMALL),
    "datransnet": DATransNet,
}


def build_model(name: str, **options) -> nn.Module:
    """A network with fresh weights; touches neither disk nor network.

    Raises InputError for a name or an option that does not exist, listing those that do.
    """
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'; known models: {', '.join(sorted(MODELS))}")
    known = inspect.signature(MODELS[name]).parameters
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"model '{name}' has no option '{', '.join(unknown)}'; its options: {', '.join(known)}")
    return MODELS[name](**options)


def load_model(path: str | Path, **options) -> nn.Module:
    """The network of a checkpoint file, ours or published, with its weights, in eval mode.

    Name and options are those of the file; `options` override them (e.g. `image_size` for a published DATransNet file,
    which does not say it).
    """
    checkpoint = read_checkpoint(path)
    model = build_model(checkpoint.model_name, **{**checkpoint.options, **options})
    load_weights(model, checkpoint)
    return model.eval()
