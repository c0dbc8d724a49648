"""Build the network of a run, with its initial weights, and everything that trains it."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from istd.models import build_model, is_external, load_weights, try_network
from istd.models.weights import load_fitting, load_pretrained_backbone
from istd.train_script.data_parallel import ProcessAverage, broadcast_weights
from istd.train_script.optim import build_optimizer, freeze
from istd.train_script.settings import Settings
from istd.train_script.state import Training
from istd.train_script.weight_average import WeightAverage
from istd.utils.cuda_graphs import GraphRunner
from istd.utils.errors import InputError
from istd.utils.names import counted
from istd.utils.ranks import world_size


def build_network(settings: Settings, device: torch.device, continued: bool) -> tuple[nn.Module, list[str]]:
    """The network on the device, with its initial weights unless the run is `continued`, and notes on odd things."""
    torch.manual_seed(settings.seed)
    network = build_model(settings.model, settings.interface, **settings.model_options)
    notes = try_network(network, settings.train_size) if is_external(settings.model) else []
    if settings.train_size % network.size_multiple:
        raise InputError(
            f"train_size is {settings.train_size}, {network.name} expects a multiple of {network.size_multiple}"
        )
    if settings.init == "low_prior":
        network.init_low_prior()
    weights = None if continued else settings.init_weights
    if settings.pretrained_backbone and not continued:
        load_pretrained_backbone(network, settings.pretrained_backbone)
    if weights and settings.init_partial:
        if left_out := load_fitting(network, weights):
            notes = [*notes, f"{weights} does not fill all of {network.name}: {left_out}"]
    elif weights:
        load_weights(network, weights)
    return network.to(device), notes


def build_training(
    settings: Settings, network: nn.Module, device: torch.device, amp: torch.dtype | None = None
) -> Training:
    """The network with its optimizer and everything else that trains it, equal on all processes."""
    several = world_size() > 1
    if several:
        broadcast_weights(network)
        if settings.sync_bn:
            from istd.train_script.synced_layers import synchronise_layers  # which imports torchvision

            synchronise_layers(network)
    freeze(network, settings.freeze)
    ema = WeightAverage(network, settings.ema) if settings.ema else None
    if settings.grad_checkpoint:
        if settings.sync_bn and several:
            raise InputError("grad_checkpoint cannot repeat the draws of sync_bn; leave one of them out")
        recompute_blocks(network)
    model = network
    if uses_graphs(settings, device):
        model = GraphRunner(network, required=bool(settings.graphs))
    elif settings.compile:
        model = torch.compile(network)
    optimizer = build_optimizer(network, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    return Training(network, model, optimizer, scaler, ema, average=ProcessAverage(network) if several else None)


def recompute_blocks(network: nn.Module) -> None:
    """Gradient checkpointing (Chen et al. 2016): let blocks forget their activations and compute them again backward.

    It costs another forward pass, but needs memory for the activations of a single block only. Random draws are
    repeated, so that gradients stay the same. Raises `InputError` for a network that names no blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, network.recomputable)]
    if not blocks:
        raise InputError(f"{network.name} has no blocks for gradient checkpointing; leave --grad_checkpoint out")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def uses_graphs(settings: Settings, device: torch.device) -> bool:
    """Whether training replays CUDA graphs: on CUDA GPUs, unless it compiles or graphs are turned off.

    Synchronised batch norms communicate amid a pass, which cannot be captured. Raises `InputError` if graphs are turned
    on where they are impossible.
    """
    synced = settings.sync_bn and world_size() > 1
    possible = device.type == "cuda" and not synced and not settings.compile and not settings.grad_checkpoint
    if settings.graphs and not possible:
        raise InputError(
            "graphs is on, which needs a CUDA GPU, compile and grad_checkpoint off, and sync_bn off where several "
            f"processes train; found {device}, compile {settings.compile}, grad_checkpoint {settings.grad_checkpoint}, "
            f"sync_bn {settings.sync_bn}, {counted(world_size(), 'process')}; leave --graphs out"
        )
    return possible and settings.graphs is not False
