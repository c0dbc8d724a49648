"""Fast forms of the networks' layers, each equal to a plain form by the tests."""

import torch


def is_exporting() -> bool:
    """Whether `torch.export` traces the network; never before torch 2.7, which cannot export ours."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()
