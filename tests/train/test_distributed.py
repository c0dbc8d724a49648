"""Several processes against one. They are started once, for all tests, as torchrun does."""

import importlib
import json
import os
import socket
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils.data import Dataset
from torchvision.ops import StochasticDepth

from istd.datasets import ClipSample, collate
from istd.models import build_model
from istd.test_script import inference
from istd.train_script import build, data_parallel, train
from istd.train_script.batches import EpochBatches
from istd.train_script.data_parallel import ProcessAverage, seed_draws
from istd.train_script.losses import LOSSES
from istd.train_script.optim import build_schedule
from istd.train_script.settings import merge_settings
from istd.train_script.steps import train_step
from istd.train_script.synced_layers import (
    SyncedBatchNorm,
    SyncedBatchNormAct,
    SyncedStochasticDepth,
    shared_generator,
    synchronise_layers,
)
from istd.utils import distributed, ranks
from istd.utils.device import choose_device
from istd.utils.errors import InputError
from tests.processes import start
from tests.reference.datasets_folders import write_lists, write_sequences
from tests.reference.results import result_bytes
from tests.train.test_train import arguments, folder_of, rows, write_blobs
from tests.utils.test_cuda_graphs import graph_stand_in

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"schedule": "constant", "lr": 1e-3, "batch_size": 4, "epochs": 1, "clip_norm": 0.5, "preset": "grey"}
STEPS = 3
ONE_EACH = {"depths": (1,) * 4, "spatial_depths": (1,) * 4, "decoder_depths": (1,) * 3, "head_depths": (1,) * 2}
SMALL_SGMP = ONE_EACH | {"num_frames": 2, "width": 48, "spatial_width": 16}


class TinyNet(nn.Module):
    """Normalisation over the batch, stochastic depth, and an output per pixel."""

    num_frames = in_channels = 1

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch, self.depth, self.last = nn.Conv2d(4, 4, 1), StochasticDepth(0.5, "row"), nn.Conv2d(4, 1, 1)

    def backbone_parameters(self):
        return []

    def forward(self, clip):
        x = self.norm(self.first(clip[:, 0])).relu()
        return self.last(x + self.depth(self.branch(x)))


class PlainNet(nn.Module):
    """Nothing that sees the batch, and an auxiliary output that the loss leaves out."""

    num_frames = in_channels = 1

    def __init__(self):
        super().__init__()
        self.first, self.last, self.aux = (nn.Conv2d(c, o, 3, padding=1) for c, o in ((1, 4), (4, 1), (4, 1)))

    def backbone_parameters(self):
        return []

    def forward(self, clip):
        return self.last(self.first(clip[:, 0]).relu())


SMALL_NETS = {"tiny": TinyNet, "plain": PlainNet}


class Blobs(Dataset):
    """Double-precision samples, a function of their index; targets of very different sizes."""

    def __init__(self, frames=1, channels=1):
        self.frames, self.channels = frames, channels

    def __len__(self):
        return 4 * STEPS

    def __getitem__(self, item):
        generator = torch.Generator().manual_seed(item)
        clip = torch.rand(self.frames, self.channels, 32, 32, generator=generator, dtype=torch.float64)
        mask = torch.zeros(1, 32, 32, dtype=torch.float64)
        mask[:, 4 : 5 + 2 * (item % 7), 3:6] = 1
        return ClipSample(clip=clip + mask, mask=mask, dataset="blobs", sequence=f"s{item}", frame=f"f{item}")


def train_blobs(kind, loss, accumulate=1, sync_bn=True, graphs=False):
    """Losses, norms and weights of three steps of all processes together."""
    torch.manual_seed(0)
    options = SMALL_SGMP if kind == "sgmp_unet" else {}
    network = SMALL_NETS[kind]() if kind in SMALL_NETS else build_model(kind, **options)
    network.double()
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.5
    options = {"warm_epochs": 0} if loss == "sls" else {}  # with all its terms
    settings = merge_settings(None, GIVEN | {"loss": loss, "loss_options": options, "accumulate": accumulate})
    settings = replace(settings, sync_bn=sync_bn)
    with patch.object(build, "uses_graphs", lambda settings, device: graphs):
        training = build.build_training(settings, network, torch.device("cpu"))
    dataset, seen = Blobs(network.num_frames, network.in_channels), []
    batches = EpochBatches([list(range(len(dataset)))], [len(dataset)], settings.batch_size, accumulate, seed=1)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=collate)
    schedule, device = build_schedule(settings, batches.steps), torch.device("cpu")
    run = SimpleNamespace(settings=settings, batches=batches, schedule=schedule, device=device, amp=None)
    parts = iter(loader)
    with patch.object(torch.cuda, "make_graphed_callables", graph_stand_in):
        for _ in range(batches.steps):
            seen.append(train_step(run, training, parts).numbers)
            training.progress.step += 1
    return {"steps": torch.stack(seen), "weights": network.state_dict()}


CASES = [("tiny", loss, 1) for loss in LOSSES] + [("tiny", "bce_soft_iou", 2), ("datransnet", "soft_iou", 1)]
CASES += [("sgmp_unet", "focal_dice", 1), ("plain", "focal_dice", 2, False)]
UNSYNCED = [("tiny", "bce_soft_iou", 2, False), ("tiny", "bce_soft_iou", 2, False, True)]  # the second one as graphs


def count_all_reduces() -> list[int]:
    """Those of a synchronised batch norm in the forward and the backward pass, and of averaging gradients."""
    layer, counts, counting = SyncedBatchNorm(3), [], Mock(wraps=torch.distributed.all_reduce)
    with patch.object(torch.distributed, "all_reduce", counting):
        output = layer(torch.rand(2, 3, 4, 4, requires_grad=True))
        counts.append(counting.call_count)
        output.square().sum().backward()
        counts.append(counting.call_count)
        ProcessAverage(layer)(0)
        counts.append(counting.call_count)
    return counts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def worker(folder: Path, commands: list[list[str]]) -> None:
    """What each of the processes computes, and then the commands that they run together."""
    with distributed.process_group("cpu"):
        rank = ranks.rank()
        ports = distributed.gather_objects([free_port() for _ in commands])[0]
        results = {str(case): train_blobs(*case) for case in CASES + UNSYNCED}
        results["all-reduces"] = count_all_reduces()
        seed_draws(5, torch.device("cpu"))
        results["draws"] = torch.rand(3), torch.rand(3, generator=shared_generator(torch.device("cpu")))
        value = torch.tensor([1.0 + rank, 2.0], dtype=torch.float64, requires_grad=True)
        total = distributed.all_reduce_sum(value)
        ((rank + 1) * total.square()).sum().backward()  # process r's loss is (r + 1) |total|^2
        results["sum"], results["gradient"] = total.detach(), value.grad
        results["gathered"] = distributed.gather_objects({"rank": rank})
        with ranks.alone():
            results["alone"] = ranks.world_size(), ranks.rank(), distributed.all_reduce_sum(value).tolist()
        results["greatest"] = distributed.all_reduce_max(5 - rank, torch.device("cpu"))
        torch.save(results, folder / f"{rank}.pth")
    for (module, *words), port in zip(commands, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)  # of a new group
        if rank == 0:
            print(f"== {module}", flush=True)
        assert not importlib.import_module(module).main(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Datasets for training and inference, and what the commands write."""
    folder = tmp_path_factory.mktemp("workers")
    write_blobs(folder / "blobs")
    write_sequences(folder / "sequences", ["a", "b", "c"], frames=3)
    write_lists(folder / "sequences", train=["a"], val=["b", "c"])
    return folder


def train_words(folder, name):
    return arguments(folder / "blobs", folder / "runs", name, epochs=1, final_test=True, sync_bn=True)


def inference_words(folder, output):
    words = ["--model_path", ROOT / "weights" / "datransnet_nudt-sirst.pth", "--dataset", folder / "sequences"]
    words += ["--output_dir", folder / output, "--flip", "--save_probabilities", "--protocol", "standard", "sgmp-2025"]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def run(folder):
    """What the two processes print, which have ended; their results lie in the folder."""
    commands = [["istd.train_script.train", *train_words(folder, "two")]]
    commands += [["istd.test_script.inference", *inference_words(folder, "two")]]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    outputs = [folder / f"{rank}.txt" for rank in range(2)]
    processes = [
        start(output, worker, folder, commands, RANK=str(rank), LOCAL_RANK=str(rank), **environment)
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.join()
    said = "".join(output.read_text(encoding="utf-8") for output in outputs)
    assert [process.exitcode for process in processes] == [0, 0], said
    return said


@pytest.fixture(scope="module")
def two_processes(folder, run):
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_train_as_one(two_processes, case):
    alone = train_blobs(*case)
    for together in (result[str(case)] for result in two_processes):
        torch.testing.assert_close(together["steps"], alone["steps"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-6, atol=1e-7)  # lr is 1e-3


def test_processes_that_normalise_alone_stay_equal_and_may_replay_graphs(two_processes):
    first, second = ([result[str(case)] for case in UNSYNCED] for result in two_processes)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    plain, graphs = first
    torch.testing.assert_close(graphs, plain, rtol=1e-12, atol=1e-15)
    alone = train_blobs(*UNSYNCED[0])
    assert not torch.allclose(alone["steps"], plain["steps"], rtol=1e-6)  # its norms see the batch of both


def test_one_all_reduce_a_direction_and_one_for_the_gradients(two_processes):
    assert [result["all-reduces"] for result in two_processes] == [[1, 2, 3]] * 2


def test_processes_draw_differently_but_for_synchronised_layers(two_processes):
    (one, shared), (other, shared_too) = (result["draws"] for result in two_processes)
    assert torch.equal(shared, shared_too) and not torch.equal(one, other)
    torch.manual_seed(5)
    assert torch.equal(one, torch.rand(3))  # alone, and on the first process, the draws are those of the seed


def test_a_parameter_that_is_first_used_within_an_epoch_does_not_part_the_processes(monkeypatch):
    network = nn.Linear(2, 1)
    monkeypatch.setattr(data_parallel, "gather_objects", lambda item: [item, item])
    monkeypatch.setattr(data_parallel, "average", list)
    averaged = ProcessAverage(network)
    network.bias.grad = torch.zeros(1)
    averaged(0)
    assert averaged.used == {"bias"}
    network.weight.grad = torch.zeros(1, 2)
    with pytest.raises(InputError, match="weight got its first gradient in the middle of epoch 1"):
        averaged(0)
    averaged(1)
    assert averaged.used == {"bias", "weight"}


def test_sum_over_processes_has_its_gradient(two_processes):
    for result in two_processes:  # total = (1 + 2, 2 + 2); d/dv of (1 + 2) |total|^2 = 3 * 2 total
        assert result["sum"].tolist() == [3.0, 4.0]
        assert result["gradient"].tolist() == [18.0, 24.0]


def test_objects_and_numbers_reach_every_process(two_processes):
    for result in two_processes:
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["greatest"] == 5
    assert [result["alone"] for result in two_processes] == [(1, 0, [1.0, 2.0]), (1, 0, [2.0, 2.0])]


def test_training_writes_one_run_with_the_losses_of_one_process(folder, run):
    assert train.main(train_words(folder, "one")) == 0
    said = run.split("== ")[1]
    assert "batch 4 = 2 processes x 1 accumulation step x 2" in said
    assert said.count("output: ") == 1
    one, two = rows(folder_of(folder / "runs", "one")), rows(folder_of(folder / "runs", "two"))
    assert len(two) == 1
    for name in ("loss", "val_loss"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-3)
    assert two[0]["val"].keys() == one[0]["val"].keys()
    assert json.loads((folder_of(folder / "runs", "two") / "test.json").read_text())["metrics"]["pd"] is not None


def test_inference_writes_the_files_of_one_process(folder, run):
    inference.main([*inference_words(folder, "one"), "--batch_size", "1"])
    one, two = (
        {str(file.relative_to(folder / output)): result_bytes(file) for file in (folder / output).rglob("*.*")}
        for output in ("one", "two")
    )
    assert len(two) > 12 + 5 and two == one  # a mask and a probability map a frame, metrics, tables, report


def test_alone_everything_is_a_no_op():
    value = torch.ones(2)
    assert distributed.all_reduce_sum(value) is value
    assert distributed.gather_objects("x") == ["x"]
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    assert distributed.all_reduce_max(3, torch.device("cpu")) == 3


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (4, 3)),
        (nn.BatchNorm2d, (4, 3, 5, 2)),
        (nn.BatchNorm3d, (2, 3, 4, 2, 2)),
        (partial(BatchNormAct2d, act_layer=nn.PReLU), (4, 3, 5, 2)),
    ],
)
def test_synced_batch_norm_is_batch_norm(kind, shape):
    torch.manual_seed(0)
    plain, synced = nn.Sequential(kind(3)).double(), nn.Sequential(kind(3)).double()
    nn.init.normal_(plain[0].weight)
    expected = SyncedBatchNormAct if isinstance(plain[0], BatchNormAct2d) else SyncedBatchNorm
    synced.load_state_dict(plain.state_dict())
    parameters = list(synced.parameters())
    synchronise_layers(synced)
    assert type(synced[0]) is expected
    assert all(now is before for now, before in zip(synced.parameters(), parameters, strict=True))
    tensor = torch.randn(shape, dtype=torch.float64, requires_grad=True) * 3 + 1
    for training in (True, True, False):
        plain.train(training), synced.train(training)
        weights = torch.rand(shape, dtype=torch.float64)
        results = []
        for network in (plain, synced):
            output = network(tensor)
            results.append([output, *torch.autograd.grad((output * weights).sum(), [tensor, *network.parameters()])])
        torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())


def test_unknown_batch_norms_are_refused():
    class Scaled(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match=r"Scaled.*leave --sync_bn out"):
        synchronise_layers(nn.Sequential(Scaled(3)))


def test_synced_stochastic_depth_draws_as_torchvision_does():
    plain = StochasticDepth(0.4, "row")
    synced = synchronise_layers(nn.Sequential(StochasticDepth(0.4, "row")))[0]
    assert type(synced) is SyncedStochasticDepth
    tensor = torch.rand(16, 3, 2)
    torch.manual_seed(1)
    expected = plain(tensor)
    shared_generator(tensor.device).manual_seed(1)
    assert torch.equal(synced(tensor), expected)
    assert torch.equal(synced.eval()(tensor), tensor)


@pytest.mark.parametrize(("device", "fails", "left"), [("cuda", False, 1), ("cuda", True, 0), ("cpu", True, 1)])
def test_a_process_takes_its_gpu_and_does_not_wait_for_the_others_after_an_error(monkeypatch, device, fails, left):
    calls, gpu = [], torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "choose_device", lambda name, _rank: gpu if name == "cuda" else torch.device(name))
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: calls.append(chosen))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda kind, timeout, device_id: calls.append((kind, device_id))
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("left"))
    with suppress(ZeroDivisionError), distributed.process_group(device):
        assert 1 / (not fails)
    assert calls == ([gpu, ("nccl", gpu)] if device == "cuda" else [("gloo", None)]) + ["left"] * left


def test_devices_that_are_not_there_are_refused():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="unknown"):
        choose_device("gpu")
    with pytest.raises(InputError, match="'cuda:1' is a single GPU, but each process of torchrun takes another"):
        choose_device("cuda:1", local_rank=0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees 0 GPUs"):
            choose_device("cuda:3")
