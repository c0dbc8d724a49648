"""What `make gpu-check` measures. Each check gets a `Lab` and yields rows: what was measured, the result, whether it is
as it should be. A miniature of them runs on the CPU in the normal suite, so that they are known to work."""

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from istd.datasets import synthetic
from istd.datasets.rendering import RenderConfig, render_sequence
from istd.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from istd.models import build_model, load_model
from istd.test_script.predictor import Predictor
from istd.train_script import train
from istd.train_script.steps import train_step
from istd.utils.cuda_graphs import PASSES_BEFORE_CAPTURE, GraphRunner
from istd.utils.device import autocast, choose_amp, float32_precision
from tests.models import test_datransnet, test_sgmp_unet
from tests.models.test_pretend_gpu import SIDE, TINY, compiled_gradients, one_batch, prepare_training
from tests.reference.network_cases import assert_same
from tests.train.test_train import arguments, folder_of, rows, write_blobs

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {
    "datransnet": ROOT / "weights" / "datransnet_nudt-sirst.pth",
    "sgmp_unet": ROOT / "weights" / "sgmp_unet_small.pth",
}
Row = tuple[str, str, bool]


@dataclass(frozen=True)
class Lab:
    """Where the checks run; `full`: with both networks at the sizes they are used with, else with a small one."""

    device: torch.device
    folder: Path  # for files
    full: bool

    @property
    def sizes(self) -> dict[str, int]:
        """The networks, and a side of their frames."""
        return {"datransnet": 256, "sgmp_unet": 320} if self.full else {"datransnet": 96}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A network and its plain form with the same weights, float64, on the CPU."""
    return (test_datransnet if name == "datransnet" else test_sgmp_unet).pair()


def plain_input(name: str, clip: Tensor) -> Tensor:
    """A clip [B, T, C, H, W] as the plain form takes it."""
    return clip[:, 0] if name == "datransnet" else clip.transpose(1, 2)


def random_clip(network: nn.Module, side: int, lab: Lab, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (batch, network.num_frames, network.in_channels, side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(lab.device, dtype)


def rendered_clip(network: nn.Module, side: int, lab: Lab) -> Tensor:
    """Consecutive frames with a target before clouds; white noise would take DATransNet's values beyond float16."""
    given = {"clutter": "cloud", "frames": network.num_frames, "size": (side, side), "snr": (8, 12)}
    settings = RenderConfig(**given, speed=(0.5, 1.0), targets=(1, 1))
    frames = torch.from_numpy(render_sequence("check", settings, 10, np.random.default_rng(0)).frames)
    clip = frames[None, :, None].expand(1, -1, network.in_channels, -1, -1)
    return (normalize(clip, IMAGENET_MEAN, IMAGENET_STD) if network.in_channels == 3 else clip).to(lab.device)


def wait(lab: Lab) -> None:
    if lab.device.type == "cuda":
        torch.cuda.synchronize(lab.device)


def recorded_answers(lab: Lab) -> Iterator[Row]:
    """float64 logits against those recorded of the published networks."""
    cases = {"datransnet": (test_datransnet, test_datransnet.image(64, 96)[:, None], "logits", 1e-8)}
    cases["sgmp_unet"] = (test_sgmp_unet, test_sgmp_unet.clip(32, 64), "outputs", 1e-6)
    for name in lab.sizes:
        module, clip, key, allowed = cases[name]
        network = pair(name)[0].eval().to(lab.device)
        with torch.no_grad():
            logits = torch.cat(network(clip.to(lab.device), with_aux=True)).cpu().numpy()
        error = np.abs(logits - np.load(module.RECORDED)[key]).max()
        yield (
            f"{name}: recorded answers, largest error of a logit",
            f"{error:.1e} (allowed {allowed})",
            error <= allowed,
        )


def gradients(lab: Lab) -> Iterator[Row]:
    """Outputs and all gradients against the plain form, float64, training mode."""
    for name, allowed in {"datransnet": 1e-8, "sgmp_unet": 1e-6}.items():
        if name not in lab.sizes:
            continue
        fast, plain = (network.to(lab.device) for network in pair(name))
        clip = random_clip(fast, 64 if lab.full else 32, lab, 2, torch.float64)
        try:
            forms = lambda net, x: net(x, with_aux=True), lambda net, x: as_list(net(plain_input(name, x)))  # noqa: B023
            assert_same(fast, plain, clip, *forms, True, allowed)
            yield f"{name}: gradients against the plain form", f"equal within {allowed}", True
        except AssertionError as error:
            yield f"{name}: gradients against the plain form", f"differ: {str(error)[:80]}", False


def as_list(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return outputs if isinstance(outputs, list) else [outputs]


def number_formats(lab: Lab) -> Iterator[Row]:
    """float32, TF32, bf16 and fp16 against float64, with the shipped weights."""
    allowed = {"float32": 1e-5, "TF32": 0.01, "bf16": 0.03, "fp16": 0.01}
    for name, side in lab.sizes.items():
        network = load_model(SHIPPED[name]).to(lab.device)
        clip = rendered_clip(network, side, lab)
        with torch.no_grad():
            exact = copy.deepcopy(network).double()(clip.double())
            for kind, limit in allowed.items():
                amp = choose_amp(kind if kind in ("bf16", "fp16") else "none", lab.device)
                with float32_precision(tf32=kind == "TF32"), autocast(lab.device, amp):
                    error = (network(clip).double() - exact).abs()
                relative = (error.mean() / exact.abs().mean()).item()
                text = f"{error.max().item():.1e} at most, mean {relative:.1e} of the mean (allowed {limit})"
                yield f"{name}: logits in {kind} against float64", text, relative <= limit


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def twenty_steps(lab: Lab) -> Iterator[Row]:
    """Training steps in each number format; while they run, waiting for the GPU is an error."""
    steps = 20 if lab.full else 2
    for name in lab.sizes:
        first, fall = {}, {}
        for kind in ("none", "bf16", "fp16"):
            torch.manual_seed(0)
            network = build_model(name).to(lab.device)
            network.init_low_prior()
            given = {"ema": 0.9, "loss": "bce_soft_iou"}
            run, training = prepare_training(network, lab.device, choose_amp(kind, lab.device), **given)
            batches, numbers = repeat(one_batch(network)), []
            for step in range(steps):
                # first steps set up the optimiser, the scaler and cuDNN
                strict = lab.device.type == "cuda" and step > 2
                with waiting_is_an_error() if strict else nullcontext():
                    numbers.append(train_step(run, training, batches).numbers)
                training.progress.step += 1
            losses = torch.stack(numbers)[:, 0].tolist()
            first[kind], fall[kind] = losses[0], losses[0] - losses[-1]
            near, share = abs(losses[0] / first["none"] - 1), fall[kind] / (fall["none"] or float("nan"))
            text = f"{losses[0]:.4f} -> {losses[-1]:.4f}, the first {near:.1%} from float32's (allowed 2 %), "
            text += f"{share:.0%} of its fall (at least 50 %)"
            passed = fall["none"] > 0 and share > 0.5 and near < 0.02
            yield f"{name}: loss over {steps} steps, amp {kind}", text, passed


def resume_and_predict(lab: Lab) -> Iterator[Row]:
    """A run that is continued after its first epoch against an unbroken one; then its predictions against a CPU's."""
    blobs = write_blobs(lab.folder / "blobs")
    given = {"device": lab.device.type, "schedule": "constant"}
    runs = {name: arguments(blobs, lab.folder / "runs", name, **given) for name in ("unbroken", "resumed")}
    train.main(runs["unbroken"])
    train.main([*runs["resumed"], "--epochs", "1"])
    train.main([*runs["resumed"], "--resume", "auto"])
    folders = {name: folder_of(lab.folder / "runs", name) for name in runs}
    unbroken, resumed = (rows(folder)[-1]["loss"] for folder in folders.values())
    near = abs(resumed / unbroken - 1)
    yield "resumed run: loss of the second epoch", f"{resumed:.5f}, unbroken {unbroken:.5f} (allowed 1 %)", near < 0.01
    count = 20 if lab.full else 5  # in batches of 4, which are then replayed
    frames = np.random.default_rng(0).random((count, 70, 90), dtype=np.float32)
    for checkpoint in (folders["resumed"] / "checkpoint_best.pth", *(SHIPPED.values() if lab.full else [])):
        options = {"flip": True, "scales": (0.8, 1.0, 1.2)}
        here, cpu = (
            Predictor.from_checkpoint(checkpoint, device, **options)(frames) for device in (lab.device.type, "cpu")
        )
        error = np.abs(here.probability - cpu.probability).max()
        yield f"inference with flip and scales, {checkpoint.name}: against the CPU", f"{error:.1e}", error <= 1e-3


def graphs(lab: Lab) -> Iterator[Row]:
    """Passes captured as CUDA graphs against the network itself: logits in inference, and losses in training."""
    if lab.device.type != "cuda":
        yield "CUDA graphs", "not checked: no CUDA GPU", True
        return
    for name, side in lab.sizes.items():
        network = load_model(SHIPPED[name]).to(lab.device).eval()
        clip, replayed = rendered_clip(network, side, lab), GraphRunner(network)
        error = 0.0
        with torch.inference_mode():
            for number in range(PASSES_BEFORE_CAPTURE + 3):
                given = clip * (1 - 0.1 * number)
                error = max(error, (replayed(given) - network(given)).abs().max().item())
        yield f"{name}: replayed logits", f"differ by {error:.1e} at most", error == 0
        for (kind, parts), captured in product((("none", 1), ("none", 2), ("bf16", 1), ("fp16", 1)), (False, True)):
            torch.manual_seed(0)
            network = build_model(name).to(lab.device)
            given = {"ema": 0.9, "loss": "bce_soft_iou", "train_size": SIDE, "aux_weight": 0.5}
            given |= {"accumulate": parts, "batch_size": 2 * parts}
            amp = choose_amp(kind, lab.device)
            run, training = prepare_training(network, lab.device, amp, **given)
            if captured:
                training.model = GraphRunner(network, required=True)
            batches, numbers = repeat(one_batch(network)), []
            for _ in range(10):
                numbers.append(train_step(run, training, batches).numbers)
                training.progress.step += 1
            if not captured:
                plain = torch.stack(numbers)
                continue
            found = torch.stack(numbers)
            # The first step draws the same stochastic depth; later ones drift apart, as rounding changes Adam's signs.
            error = abs(found[0, 0] / plain[0, 0] - 1).item()
            fall, expected = ((steps[0, 0] - steps[-1, 0]).item() for steps in (found, plain))
            text = f"differs by {error:.1e} in the first of ten (allowed 1 %), falls by {fall:.4f}, uncaptured by "
            text += f"{expected:.4f}"
            passed = error < 0.01 and fall > 0.5 * expected > 0
            yield f"{name}: loss of captured training steps, amp {kind}, accumulate {parts}", text, passed


def compiled(lab: Lab) -> Iterator[Row]:
    """torch.compile of the parts of small networks that have layers of ours: gradients against the plain interpreter's.

    To compile a whole network takes minutes.
    """
    for name in lab.sizes:
        network = build_model(name, **TINY[name]).to(lab.device)
        parts = [network.transformers[0] if name == "datransnet" else network.encoder.stages[0]]
        since = time.perf_counter()
        with float32_precision(tf32=False):
            given = random_clip(network, SIDE, lab, 2), "inductor" if lab.full else "eager"
            for part, *both in compiled_gradients(network, parts, *given):
                plain, fast = (torch.cat([gradient.flatten() for gradient in one]) for one in both)
                alike = nn.functional.cosine_similarity(plain, fast, dim=0).item()
                text = f"cosine {alike:.6f} (at least 0.999), {time.perf_counter() - since:.0f} s"
                yield f"{name}: gradients of a compiled {type(part).__name__}", text, alike > 0.999


def all_gpus(lab: Lab) -> Iterator[Row]:
    """One epoch on all GPUs against the same on one."""
    count = torch.cuda.device_count()
    if count < 2:
        yield "several GPUs against one", f"not checked: torch sees {count}", True
        return
    blobs = write_blobs(lab.folder / "ddp" / "blobs")
    losses = []
    for processes, sync_bn in ((1, False), (count, True), (count, False)):
        given = {"device": "cuda", "epochs": 1, "batch_size": count * (16 // count), "sync_bn": sync_bn}
        name = f"on_{processes}_{sync_bn}"
        words = arguments(blobs, lab.folder / "ddp", name, **given)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "train_script.train", *words]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
        if done.returncode:
            yield f"training on {processes} GPUs", done.stderr[-300:], False
            return
        losses.append(rows(folder_of(lab.folder / "ddp", name))[0]["loss"])
    alone, synced, captured = losses
    near = abs(synced / alone - 1)
    yield f"{count} GPUs with sync_bn against one: loss of an epoch", f"{synced:.5f} and {alone:.5f}", near < 0.01
    near = abs(captured / alone - 1)  # each of their batch norms sees a part of the batch
    yield f"{count} GPUs with CUDA graphs against one: loss of an epoch", f"{captured:.5f} and {alone:.5f}", near < 0.2


def speed_and_memory(lab: Lab) -> Iterator[Row]:
    """Time and peak memory of forward passes and training steps against the plain forms, in bf16 where it is fast."""
    amp, on_gpu = choose_amp("auto", lab.device), lab.device.type == "cuda"
    for name, side in lab.sizes.items():
        batch = 2 if lab.full else 1
        fast, plain = (network.float().to(lab.device) for network in pair(name))
        clip = random_clip(fast, side, lab, batch)
        forms = {"plain": (plain, plain_input(name, clip)), "ours": (fast, clip)}
        for task in ("forward", "training step"):
            taken, memory = {}, {}
            for form, (network, inputs) in forms.items():
                network.train(task == "training step")
                taken[form], memory[form] = measure(lab, network, inputs, amp, network)
            text = f"{1e3 * taken['ours']:.1f} ms, plain {1e3 * taken['plain']:.1f} ms"
            if on_gpu:  # as training and inference do by default
                taken["ours"], _ = measure(lab, GraphRunner(fast), clip, amp, fast)
                text += f", as graphs {1e3 * taken['ours']:.1f} ms"
            ratio = taken["plain"] / taken["ours"]
            text += f": {ratio:.2f} x; {memory['ours'] / 1e6:.0f} MB, plain {memory['plain'] / 1e6:.0f} MB"
            fine = not lab.full or (ratio > 1 and memory["ours"] < 1.1 * memory["plain"])
            yield f"{name}: {task}, {batch} x {side} px", text, fine


def measure(lab: Lab, form: Callable, inputs: Tensor, amp: torch.dtype | None, network: nn.Module) -> tuple[float, int]:
    """Median seconds, and the allocator's peak in bytes, of a pass of a form of `network`: forward, in training mode
    with backward. A form of graphs keeps memory that the peak lacks."""
    on_gpu, times = lab.device.type == "cuda", []
    for _ in range(8 if lab.full else 1):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(lab.device)
        network.zero_grad()
        wait(lab)
        since = time.perf_counter()
        with torch.set_grad_enabled(network.training), autocast(lab.device, amp):
            logits = as_list(form(inputs))[0]
        if network.training:
            logits.float().square().mean().backward()
        wait(lab)
        times.append(time.perf_counter() - since)
    return statistics.median(times), torch.cuda.max_memory_allocated(lab.device) if on_gpu else 0


def loading(lab: Lab) -> Iterator[Row]:
    """Share of an epoch's time in which training waits for data, with the default loading processes."""
    data, size, name = lab.folder / "rendered", "320" if lab.full else "32", "sgmp_unet" if lab.full else "datransnet"
    synthetic.main(f"--output {data} --size {size} {size} --sequences 6 --frames 16 --val_share 0.2".split())
    options = (
        f"--dataset {data} --model {name} --train_size {size} --batch_size 4 --epochs 2 --val_every 2 --limit_val 1"
    )
    options += f" --device {lab.device.type} --final_test false --tensorboard false --loss bce_soft_iou"
    train.main([*options.split(), "--output_root", str(lab.folder / "loading"), "--experiment_name", "run"])
    path = next((lab.folder / "loading").rglob("metrics.jsonl"))
    row = [json.loads(line) for line in path.read_text().splitlines()][-1]
    text = f"{row['data_share']:.0%} (allowed 25 %), {row['samples_per_second']} samples a second"
    yield f"{name}, {size} px: share of the time waiting for data", text, not lab.full or row["data_share"] < 0.25


CHECKS: list[Callable[[Lab], Iterator[Row]]] = [
    recorded_answers,
    gradients,
    number_formats,
    twenty_steps,
    resume_and_predict,
    graphs,
    compiled,
    all_gpus,
    speed_and_memory,
    loading,
]
