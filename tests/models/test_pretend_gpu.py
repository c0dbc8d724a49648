"""What runs on GPUs only, without one: equal to the CPU's form, on fake `cuda` tensors, in float16, and compiled."""

from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import StochasticDepth

from istd.datasets import ClipSample
from istd.models import build_model
from istd.models.ops import window_attention
from istd.test_script.predictor import Predictor
from istd.train_script.losses import LOSSES, LossProgress, total_loss
from istd.train_script.optim import build_optimizer, build_schedule
from istd.train_script.settings import merge_settings
from istd.train_script.state import Training, restore, training_state
from istd.train_script.steps import train_step
from istd.train_script.weight_average import WeightAverage
from tests.reference.network_cases import outputs_and_gradients

SIDE = 32
GPU = torch.device("cuda", 0)
TINY = {
    "datransnet": {"width": 4},
    "sgmp_unet": {
        "num_frames": 2,
        "width": 32,
        "depths": (2, 1, 1, 1),  # the second block has shifted windows
        "heads": (2, 2, 2, 2),
        "spatial_width": 16,
        "spatial_depths": (1, 1, 1, 1),
        "fusion_heads": (2, 2, 2, 2),
        "decoder_depths": (1, 1, 2),
        "decoder_heads": (2, 2, 2),
        "head_depths": (1, 1),
        "head_heads": (2, 1),
    },
}
PARTS = {
    "datransnet": lambda net: [net.encoders[0], net.transformers[0], net.global_features, net.decoders[0], net.head],
    "sgmp_unet": lambda net: [net.encoder.stages[0], net.skips[0], net.head],
}
names = pytest.mark.parametrize("name", sorted(TINY))


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    return build_model(name, **TINY[name]).to(dtype)


def random_clip(network, dtype=torch.float32, device="cpu"):
    return torch.rand(2, network.num_frames, network.in_channels, SIDE, SIDE, dtype=dtype, device=device)


@names
def test_the_forms_off_the_cpu_equal_those_on_it(name, monkeypatch):
    network, asked = build(name, torch.float64), []
    clip = random_clip(network, torch.float64)
    for train in (True, False):
        with monkeypatch.context() as patch:
            on = outputs_and_gradients(network, clip, lambda net, x: net(x, with_aux=True), train)
            with torch.no_grad():
                inferred = network(clip)
            patch.setattr("istd.models.ops.on_cpu", lambda tensor: bool(asked.append(tensor)))
            off = outputs_and_gradients(network, clip, lambda net, x: net(x, with_aux=True), train)
            torch.testing.assert_close(off, on, rtol=1e-8, atol=1e-8)
            if not train:
                with torch.no_grad():
                    torch.testing.assert_close(network(clip), inferred, rtol=0, atol=1e-10)
    assert asked


class FakeGPU(FakeTensorMode):
    """Tensors on `cuda` have a shape and a device, but no values: mixed devices are an error, and so are numbers that
    the host reads. `waits` lists copies between host and GPU for which the host waits: all but those that need not
    block, to the GPU from pinned memory."""

    def __init__(self):
        super().__init__()
        self.waits, self.pinned = [], []

    def __deepcopy__(self, memo):
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._pin_memory.default:  # which fake tensors lack
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            devices = {value.device.type for value in (*args, out) if isinstance(value, Tensor)}
            non_blocking = (kwargs or {}).get("non_blocking") or any(value is True for value in args)
            source = args[func.overloadpacket is torch.ops.aten.copy_]
            if len(devices) > 1 and not (non_blocking and any(source is tensor for tensor in self.pinned)):
                self.waits.append((func, args, kwargs))
        return out


def one_batch(network):
    mask = (torch.rand(2, 1, SIDE, SIDE) > 0.99).float()
    return ClipSample(clip=random_clip(network), mask=mask, sequence=["a", "b"], frame=["0", "1"])


def prepare_training(network, device, amp, **given):
    """A `Run` and a `Training` of a network, as far as `train_step` reads them."""
    settings = merge_settings(None, {"schedule": "constant", "lr": 1e-3, "batch_size": 2} | given)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    ema = WeightAverage(network, 0.9) if settings.ema else None
    training = Training(network, network.train(), build_optimizer(network, settings), scaler, ema)
    schedule = build_schedule(settings, steps_per_epoch=10)
    batches = SimpleNamespace(steps=10)
    return SimpleNamespace(settings=settings, batches=batches, schedule=schedule, device=device, amp=amp), training


@pytest.fixture
def fake_gpu(monkeypatch):
    """A `FakeGPU` that is in use."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(window_attention, "_shift_mask", window_attention._shift_mask.__wrapped__)  # keep no fake ones
    generator = torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda device: generator)  # there are no fake ones
    with FakeGPU() as mode:
        yield mode


def build_on(fake_gpu, name):
    with fake_tensor.unset_fake_temporarily():
        network = build(name)
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for key, value in tensors.items():
                fake = None if value is None else fake_gpu.from_tensor(value).to(GPU)
                tensors[key] = torch.nn.Parameter(fake) if isinstance(value, torch.nn.Parameter) else fake
    fake_gpu.waits.clear()
    return network


@names
def test_a_training_step_stays_on_the_gpu(name, fake_gpu, monkeypatch):
    """Forward, losses, clipping, loss scaling, optimiser, and EMA; autograd itself needs a GPU for fake tensors."""
    network = build_on(fake_gpu, name)

    def backward(loss):
        assert loss.device == GPU and loss.requires_grad
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    run, training = prepare_training(network, GPU, torch.float16, ema=0.9, aux_weight=0.5, loss="bce_soft_iou")
    batch = one_batch(network)
    batch |= {"clip": batch.clip.pin_memory(), "mask": batch.mask.pin_memory()}  # as its DataLoader does
    result = train_step(run, training, repeat(batch))
    assert not fake_gpu.waits
    assert result.numbers.device == GPU
    assert training.scaler.is_enabled()
    moments = [value for state in training.optimizer.state.values() for value in state.values()]
    assert {tensor.device for tensor in (*moments, *training.ema.averaged)} == {GPU}


def test_losses_stay_on_the_gpu(fake_gpu):
    logits, mask = (torch.rand(2, 1, 8, 8, device=GPU) for _ in range(2))
    for name in LOSSES:
        assert total_loss(name, logits, {"mask": mask}, LossProgress(epoch=9)).device == GPU
    assert not fake_gpu.waits
    logits.new_tensor([1.0])  # what it is that is not to be found
    assert len(fake_gpu.waits) == 1


def test_predictions_are_copied_from_the_gpu_at_once(fake_gpu, monkeypatch):
    network = build_on(fake_gpu, "datransnet")
    monkeypatch.setattr(Tensor, "numpy", lambda tensor: tensor)
    monkeypatch.setattr(network, "to", lambda device: network)  # which fake parameters cannot
    predictor = Predictor(network, torch.from_numpy, GPU, flip=True, scales=(0.5,), amp="fp16")
    clips = [clip[..., 3:] for clip in random_clip(network)]  # they are padded
    maps = predictor.score_maps(clips, [(SIDE, SIDE - 3)] * 2)
    assert len(fake_gpu.waits) == 1
    assert {(one.probability.shape, one.probability.device.type) for one in maps} == {((SIDE, SIDE - 3), "cpu")}


@names
def test_float16_trains_with_its_scaler(name, monkeypatch):
    monkeypatch.setattr("istd.models.ops.on_cpu", lambda tensor: False)
    network = build(name)
    run, training = prepare_training(network, torch.device("cpu"), torch.float16)
    before, batch, losses = [weight.clone() for weight in network.parameters()], repeat(one_batch(network)), []
    for _ in range(10):
        losses.append(train_step(run, training, batch).numbers[0].item())
        training.progress.step += 1
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert 1 <= training.scaler.get_scale() <= 65536
    assert all(weight.isfinite().all() for weight in network.parameters())
    assert sum(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True)) > 0.9 * len(before)


@pytest.mark.parametrize(("first", "then"), [(None, torch.float16), (torch.float16, None)])
def test_a_run_resumes_in_another_number_format(first, then):
    network, device = build("datransnet"), torch.device("cpu")
    _, saved = prepare_training(network, device, first)
    saved.scaler.scale(torch.zeros(1))  # it makes its state when it is first used
    state = training_state(saved)
    run, training = prepare_training(build("datransnet"), device, then)
    restore(training, network.state_dict(), state)
    assert train_step(run, training, repeat(one_batch(network))).numbers.isfinite().all()


def compiled_gradients(network, parts, clip, backend):
    """For each of the parts of a network in training: its parameters' gradients, plain and compiled.

    A graph break is an error.
    """
    for module in network.modules():
        if isinstance(module, StochasticDepth):  # whose draws would not be alike twice
            module.p = 0.0
    seen = []
    hooks = [part.register_forward_pre_hook(lambda *call: seen.append(call)) for part in parts]
    with torch.no_grad():
        network.train()(clip)
    for hook in hooks:
        hook.remove()
    assert {module for module, _ in seen} == set(parts)
    for part, inputs in seen:
        torch._dynamo.reset()
        gradients = []
        for form in (part, torch.compile(part, backend=backend, fullgraph=True)):
            part.zero_grad()
            torch.manual_seed(0)
            outputs = form(*inputs)
            sum(out.square().mean() for out in (outputs if isinstance(outputs, list | tuple) else [outputs])).backward()
            gradients.append([parameter.grad for parameter in part.parameters()])
        yield part, *gradients


@pytest.mark.parametrize(("name", "gpu"), [("datransnet", True), ("datransnet", False), ("sgmp_unet", True)])
def test_training_has_no_graph_breaks(name, gpu, monkeypatch):
    """Of the network's parts: tracing all of it takes longer."""
    monkeypatch.setattr("istd.models.ops.on_cpu", lambda tensor: not gpu)
    network = build(name)
    for _, plain, compiled in compiled_gradients(network, PARTS[name](network), random_clip(network), "eager"):
        for one, other in zip(plain, compiled, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-3 * one.abs().max().item() + 1e-6)


def test_a_captured_pass_shares_no_masks(monkeypatch):
    """Those in the cache may be freed while a CUDA graph reads them, and those of a capture have no values yet."""
    monkeypatch.setattr("istd.models.ops.on_cpu", lambda tensor: False)
    network = build("sgmp_unet").eval()
    clip = torch.rand(1, 2, 3, 64, 64)
    window_attention._shift_mask.cache_clear()
    with torch.no_grad():
        expected = network(clip)
        before = window_attention._shift_mask.cache_info()
        monkeypatch.setattr("istd.models.ops.is_captured", lambda tensor: True)
        assert torch.equal(network(clip), expected)
    assert before.currsize and window_attention._shift_mask.cache_info() == before
