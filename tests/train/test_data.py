"""Held-out sequences, and the order of batches drawn from one or several datasets."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from istd.datasets import Frame, Sequence, open_dataset
from istd.datasets.clips import CACHE_BYTES
from istd.models import build_model
from istd.train_script.batches import EpochBatches, MixedDataset, epoch_counts, number_repeats
from istd.train_script.data import build_eval_datasets, build_train_dataset, open_datasets
from istd.train_script.loading import (
    EVAL_CACHE_BYTES,
    build_eval_loader,
    build_train_loader,
    count_workers,
    stop_loading,
)
from istd.train_script.run_record import describe_data
from istd.train_script.settings import merge_settings
from istd.utils.errors import InputError
from istd.utils.grey_levels import GreyRange
from istd.utils.items import spread
from tests.reference.datasets_folders import write_image, write_lists, write_pairs


def sequences(count):
    return [Sequence(str(index), ()) for index in range(count)]


@pytest.mark.parametrize(
    ("device", "workers", "cores", "expected"),
    [("cpu", None, 64, 0), ("cuda", None, 64, 8), ("cuda", None, 3, 3), ("cuda", 0, 64, 0), ("cpu", 2, 1, 2)],
)
def test_a_gpu_is_served_by_loading_processes(monkeypatch, device, workers, cores, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    assert count_workers(merge_settings(None, {"num_workers": workers}), torch.device(device)) == expected


@pytest.mark.parametrize(("cores", "processes", "expected"), [(4, 1, 4), (12, 4, 3), (64, 2, 8), (2, 4, 1)])
def test_processes_on_gpus_share_the_cores_for_loading(cores, processes, expected, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert count_workers(merge_settings(None, {}), torch.device("cuda")) == expected


def test_a_limit_spreads_evenly():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread("abc", 9) == spread("abc", None) == ["a", "b", "c"]
    assert spread([], 4) == []


def test_an_epoch_is_a_shuffle_of_whole_batches():
    batches = EpochBatches([list(range(100, 111))], [11], batch_size=3, accumulate=1, seed=5)
    epochs = []
    for epoch in range(3):
        batches.start(epoch, 0)
        epochs.append(list(batches))
        assert len(batches) == 3 and [len(batch) for batch in epochs[-1]] == [3, 3, 3]
        drawn = [index for batch in epochs[-1] for index in batch]
        assert len(set(drawn)) == 9 and set(drawn) <= set(range(100, 111))
    assert epochs[0] != epochs[1] != epochs[2]


def test_an_epoch_goes_on_where_it_was_left():
    batches = EpochBatches([list(range(11))], [11], batch_size=4, accumulate=2, seed=5)
    batches.start(1, 0)
    whole = list(batches)
    batches.start(1, 1)
    assert list(batches) == whole[2:] and len(batches) == 2
    assert [len(part) for part in whole] == [2, 2, 2, 2]


def test_processes_share_out_what_one_has(monkeypatch):
    def parts(rank, world, accumulate):
        monkeypatch.setattr("istd.train_script.batches.rank", lambda: rank)
        monkeypatch.setattr("istd.train_script.batches.world_size", lambda: world)
        return list(EpochBatches([list(range(24))], [24], 8, accumulate, seed=1))

    alone = parts(0, 1, 2)
    first, second = parts(0, 2, 2), parts(1, 2, 2)
    assert [one + other for one, other in zip(first, second, strict=True)] == alone


def test_an_epoch_is_shared_out_by_hand():
    assert epoch_counts([10, 30], [], None) == [10, 30]  # by default everything once
    assert epoch_counts([10, 30], [1, 1], None) == [20, 20]
    assert epoch_counts([10, 30], [], 8) == [2, 6]
    assert epoch_counts([5, 5, 5], [1, 1, 1], 10) == [4, 3, 3]  # 3.33 each: the rest goes to the first
    assert epoch_counts([5, 5], [1, 2], 10) == [3, 7]  # 3.33 and 6.67: the rest goes to the larger remainder


def drawn(batches, epoch):
    """The samples of an epoch, in its order."""
    batches.start(epoch, 0)
    return [index for batch in batches for index in batch]


def test_one_dataset_is_shuffled_as_before_several_were_possible():
    batches = EpochBatches([list(range(100, 108))], [8], batch_size=4, accumulate=1, seed=5)
    for epoch in range(2):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch)).tolist()
        assert drawn(batches, epoch) == [100 + place for place in order]


def test_samples_that_come_again_are_numbered_and_the_first_ones_are_as_before():
    assert number_repeats([3, 5, 3, 3, 5]) == [3, 5, (3, 1), (3, 2), (5, 1)]
    batches = EpochBatches([[0, 1]], [5], batch_size=5, accumulate=1, seed=1)
    items = drawn(batches, 0)
    assert {item for item in items if isinstance(item, int)} == {0, 1}
    assert len(set(items)) == 5, "every draw of an epoch is another one"


def test_items_drawn_several_times_get_other_crops(tmp_path):
    root = tmp_path / "blobs"
    write_pairs(root / "images", root / "masks", ["a", "b"])
    settings = merge_settings(None, {"train_size": 16, "model": "datransnet", "seed": 3})
    network = SimpleNamespace(in_channels=1, num_frames=1, frame_stride=1, target_index=0)
    dataset = build_train_dataset(settings, open_dataset(root).sequences, "blobs", network)
    mixed = MixedDataset([dataset, dataset])
    clips = [mixed[item].clip for item in (1, (1, 1), (1, 2), 3, (3, 1))]
    assert torch.equal(clips[0], dataset[1].clip) and torch.equal(clips[0], clips[3]), "the first draw is as it was"
    assert torch.equal(clips[1], clips[4])
    assert not any(torch.equal(clips[a], clips[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_augmentations_take_nothing_from_samples_beyond_the_limit(tmp_path, monkeypatch):
    write_pairs(tmp_path / "images", tmp_path / "masks", [*"abcdefgh"])
    options = {"train_size": 16, "batch_size": 1, "augment": ["copy_paste"], "augment_options": {"copy_paste.share": 1}}
    settings = merge_settings(None, options | {"limit_train": 2})
    network = SimpleNamespace(in_channels=1, num_frames=1, frame_stride=1, target_index=0)
    dataset = build_train_dataset(settings, open_dataset(tmp_path).sequences, "blobs", network)
    read, read_item = set(), dataset._read_item
    monkeypatch.setattr(dataset, "_read_item", lambda item, *beside: read.add(item) or read_item(item, *beside))
    loader, _ = build_train_loader(settings, [dataset], torch.device("cpu"))
    for epoch in range(10):
        dataset.set_epoch(epoch)
        list(loader)
    assert read == {0, 4}


def test_samples_of_each_dataset_are_drawn_equally_often():
    small, large = list(range(3)), list(range(3, 13))
    batches = EpochBatches([small, large], [8, 4], batch_size=12, accumulate=1, seed=1)
    total = Counter()
    for epoch in range(15):  # 8 * 15 = 3 * 40 and 4 * 15 = 10 * 6
        counts = Counter(item[0] if isinstance(item, tuple) else item for item in drawn(batches, epoch))
        assert sum(counts[item] for item in small) == 8 and sum(counts[item] for item in large) == 4
        assert min(counts[item] for item in small) == 2
        total += counts
    assert {total[item] for item in small} == {40} and {total[item] for item in large} == {6}
    assert drawn(batches, 3) != drawn(batches, 4)


def test_loading_processes_end_with_their_frames_and_start_again():
    loader = DataLoader(list(range(4)), num_workers=1, persistent_workers=True)
    for _ in range(2):
        assert len(list(loader)) == 4
        worker = loader._iterator._workers[0]
        stop_loading(loader)
        assert not worker.is_alive()
    stop_loading(loader)


@pytest.mark.parametrize(("workers", "limit"), [(0, CACHE_BYTES), (2, EVAL_CACHE_BYTES)])
def test_processes_that_load_for_evaluation_keep_few_frames(tmp_path, workers, limit):
    network, frame = build_model("datransnet", width=4), Frame("0", tmp_path / "0.png", tmp_path / "0.png")
    settings = merge_settings(None, {"num_workers": workers, "preset": "grey"})
    (dataset,) = build_eval_datasets(settings, {"name": {"val": [Sequence("a", (frame,))]}}, "val", network)
    loader = build_eval_loader(settings, dataset, None, torch.device("cpu"))
    assert loader.dataset.cache_bytes == limit


def test_what_a_run_will_use_is_checked_before_it_begins(tmp_path):
    """A test image whose mask has another size fails at once, or is left out, instead of failing after all epochs."""
    write_pairs(tmp_path / "images", tmp_path / "masks", [*"abcdef"])
    write_lists(tmp_path, train=[*"abc"], test=[*"def"])
    write_image(tmp_path / "masks" / "e.png", np.zeros((30, 40), np.uint8))
    options = {"dataset": str(tmp_path), "data_root": None}
    with pytest.raises(InputError, match=r"e\.png is 40 x 30, .*--skip_unusable"):
        open_datasets(merge_settings(None, options))
    (index,) = open_datasets(merge_settings(None, options | {"skip_unusable": True}))
    assert [sequence.name for sequence in index.split("test")] == ["d", "f"] and len(index.left_out) == 1
    (record,) = describe_data([index], {index.info.name: index.parts})
    assert record["left_out"] == list(index.left_out) and record["split_source"] == "train.txt, test.txt"
    (unused,) = open_datasets(merge_settings(None, options | {"final_test": False}))
    assert len(unused.split("test")) == 3, "what the run does not use is not looked at"
    settings = merge_settings(None, options | {"range": ["7000", "7600"]})
    network = build_model("datransnet")
    data = build_train_dataset(settings, unused.split("train"), "raw", network)
    assert data.grey_range == GreyRange(7000, 7600)
    with pytest.raises(InputError, match="two numbers LOW HIGH"):
        merge_settings(None, options | {"range": ["wide"]})
