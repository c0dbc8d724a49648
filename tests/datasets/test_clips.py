import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import istd.datasets.clips
from istd.datasets import ClipDataset, ClipSample, Frame, Sequence, collate, open_dataset
from istd.datasets.clips import range_lines
from istd.datasets.presets import build_transform
from istd.utils.errors import InputError
from istd.utils.grey_levels import FRAME, GreyRange, range_frames, sequence_range, to_unit
from tests.reference.datasets_folders import frame_and_mask, write_image, write_pairs, write_sequences


def plain(frames, mask, random):
    """Frames as they are, with one channel, and a random number in place of the mask's corner."""
    mask = torch.from_numpy(mask).float()[None]
    mask[0, 0, 0] = random.random()
    return torch.from_numpy(frames).float()[:, None], mask


def levels(path, count, masked=None, shape=(6, 8)):
    """A sequence whose frame i has grey level i everywhere."""
    frames = []
    for index in range(count):
        image = write_image(path / "images" / f"{index}.png", np.full(shape, index, np.uint8))
        mask = write_image(path / "masks" / f"{index}.png", np.ones(shape, np.uint8))
        frames.append(Frame(str(index), image, mask if masked is None or index in masked else None))
    return Sequence("s", tuple(frames))


def clip_levels(sample):
    return sample.clip[:, 0, 0, 0].int().tolist()


@pytest.mark.parametrize(
    ("border", "first", "last"),
    [("wrap", [7, 8, 9, 0, 1, 2], [6, 7, 8, 9, 0, 1]), ("clamp", [0, 0, 0, 0, 1, 2], [6, 7, 8, 9, 9, 9])],
)
def test_six_frames_around_the_target_and_both_borders(tmp_path, border, first, last):
    dataset = ClipDataset([levels(tmp_path, 10)], 6, plain, border=border)
    assert clip_levels(dataset[0]) == first
    assert clip_levels(dataset[5]) == [2, 3, 4, 5, 6, 7]
    assert clip_levels(dataset[9]) == last


@pytest.mark.parametrize(
    ("border", "stride", "target", "expected"),
    [
        ("clamp", 2, None, [0, 0, 2, 4]),
        ("wrap", 2, None, [8, 0, 2, 4]),
        ("clamp", 1, 3, [0, 0, 1, 2]),
        ("wrap", 3, 3, [3, 6, 9, 2]),
    ],
)
def test_frames_apart_and_a_target_of_choice(tmp_path, border, stride, target, expected):
    dataset = ClipDataset([levels(tmp_path, 10)], 4, plain, border=border, stride=stride, target=target)
    assert clip_levels(dataset[2]) == expected


@pytest.mark.parametrize("border", ["wrap", "clamp"])
def test_a_sequence_shorter_than_the_clip(tmp_path, border):
    expected = {"wrap": [1, 0, 1, 0, 1, 0], "clamp": [0, 0, 0, 0, 1, 1]}
    assert clip_levels(ClipDataset([levels(tmp_path, 2)], 6, plain, border=border)[0]) == expected[border]


def test_one_frame_is_the_single_frame_case(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 3)], 1, plain)
    assert [clip_levels(dataset[i]) for i in range(3)] == [[0], [1], [2]]


def test_frames_without_a_mask_are_context_only(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 5, masked={1, 4})], 3, plain)
    assert [dataset[i].frame for i in range(len(dataset))] == ["1", "4"]
    assert clip_levels(dataset[0]) == [0, 1, 2]


def test_an_item_says_where_it_comes_from(tmp_path):
    sample = ClipDataset([levels(tmp_path, 2)], 1, plain, dataset_name="mine")[1]
    assert (sample.dataset, sample["sequence"], sample.frame) == ("mine", "s", "1")
    with pytest.raises(AttributeError, match="boxes"):
        _ = sample.boxes
    assert sample.mask.shape == (1, 6, 8)


def test_both_presets_of_both_channels_on_images_and_sequences(tmp_path):
    write_sequences(tmp_path / "sequences", ["a", "b"])
    write_pairs(tmp_path / "single" / "images", tmp_path / "single" / "masks", ["1", "2"])
    for folder in ("sequences", "single"):
        sequences = open_dataset(tmp_path / folder).sequences
        for preset in ("sgmp_unet", "datransnet", "grey"):
            for channels in (1, 3):
                for frames in (1, 6):
                    sample = ClipDataset(sequences, frames, build_transform(preset, True, 64, channels))[0]
                    assert sample.clip.shape == (frames, channels, 64, 64)
                    assert sample.mask.shape == (1, 64, 64)
                    assert sample.clip.dtype == sample.mask.dtype == torch.float32
                    assert set(sample.mask.unique().tolist()) <= {0.0, 1.0}
                    assert torch.isfinite(sample.clip).all()


def count_reads(monkeypatch):
    reads = Counter()
    for name in ("read_pixels", "read_mask"):
        original = getattr(istd.datasets.layouts, name)

        def counting(path, original=original):
            reads[path] += 1
            return original(path)

        monkeypatch.setattr(istd.datasets.layouts, name, counting)
    return reads


def test_each_file_is_decoded_once_over_two_epochs(tmp_path, monkeypatch):
    reads = count_reads(monkeypatch)
    dataset = ClipDataset([levels(tmp_path, 10)], 6, plain)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            dataset[index]
    assert len(reads) == 20
    assert set(reads.values()) == {1}


def test_the_cache_keeps_its_limit_and_in_order_reading_still_decodes_once(tmp_path, monkeypatch):
    reads = count_reads(monkeypatch)
    dataset = ClipDataset([levels(tmp_path, 20)], 6, plain, cache_bytes=8 * 48)
    for index in range(len(dataset)):
        dataset[index]
        assert dataset._cache.used <= 8 * 48
    assert set(reads.values()) == {1}


def test_no_cache_at_all(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 4)], 3, plain, cache_bytes=0)
    assert clip_levels(dataset[1]) == [0, 1, 2]
    assert dataset._cache.used == 0


def draws(dataset, indices):
    return [dataset[i].mask[0, 0, 0].item() for i in indices]


def test_draws_depend_on_seed_epoch_and_index_alone(tmp_path):
    sequence = levels(tmp_path, 6)
    dataset = ClipDataset([sequence], 1, plain, seed=3)
    dataset.set_epoch(2)
    there = draws(dataset, range(6))
    assert draws(dataset, reversed(range(6))) == there[::-1], "the history changed a draw"
    assert len(set(there)) == 6
    dataset.set_epoch(3)
    assert not set(draws(dataset, range(6))) & set(there)
    resumed = ClipDataset([sequence], 1, plain, seed=3)
    resumed.set_epoch(2)
    assert draws(resumed, [4]) == [there[4]]
    assert draws(ClipDataset([sequence], 1, plain, seed=4), [4]) != [there[4]]


def test_workers_that_stay_alive_see_the_epoch(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 6)], 1, plain)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate, persistent_workers=True)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        loaded = torch.cat([batch.mask[:, 0, 0, 0] for batch in loader])
        assert loaded.tolist() == draws(dataset, range(6))


def test_presets_and_dataset_can_be_sent_to_spawned_workers(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 3, shape=(64, 64))], 1, build_transform("local_contrast", True, 32, 1))
    expected = dataset[0].clip
    dataset.transform = pickle.loads(pickle.dumps(dataset.transform))
    assert torch.equal(dataset[0].clip, expected) and expected.shape == (1, 1, 32, 32)


def test_a_mask_of_another_size_names_both_files_and_sizes(tmp_path):
    frame, _ = frame_and_mask(0, (32, 40))
    image = write_image(tmp_path / "frame.png", frame)
    mask = write_image(tmp_path / "mask.png", np.zeros((32, 41), np.uint8))
    dataset = ClipDataset([Sequence("s", (Frame("f", image, mask),))], 1, plain)
    with pytest.raises(InputError, match=r"mask\.png is 41 x 32, its image .*frame\.png 40 x 32"):
        dataset[0]


def test_frames_of_another_size_in_one_sequence_are_an_error(tmp_path):
    sequence = levels(tmp_path, 2)
    write_image(sequence.frames[1].image, np.zeros((6, 9), np.uint8))
    with pytest.raises(InputError, match=r"1\.png is 9 x 6, frame .*0\.png of the same sequence 8 x 6"):
        ClipDataset([sequence], 2, plain)[1]


def test_8_and_16_bit_frames_in_one_clip(tmp_path):
    sequence = levels(tmp_path, 2, shape=(2, 2))
    write_image(sequence.frames[0].image, np.full((2, 2), 51, np.uint8))
    write_image(sequence.frames[1].image, np.array([[0, 65535], [13107, 0]], np.uint16))
    clip = ClipDataset([sequence], 2, plain, grey_range=GreyRange(0, 65535))[1].clip[:, 0]
    torch.testing.assert_close(clip, torch.tensor([[[0.2, 0.2], [0.2, 0.2]], [[0.0, 1.0], [0.2, 0.0]]]))


def test_wrong_settings_are_said(tmp_path):
    with pytest.raises(InputError, match="border 'mirror' is unknown"):
        ClipDataset([levels(tmp_path, 2)], 6, plain, border="mirror")
    with pytest.raises(InputError, match="at least 1"):
        ClipDataset([levels(tmp_path, 2)], 0, plain)
    with pytest.raises(InputError, match="has a mask"):
        ClipDataset([levels(tmp_path, 2, masked=set())], 6, plain)


def test_collate_batches_tensors_and_lists_names(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 4)], 3, plain, dataset_name="d")
    batch = collate([dataset[1], dataset[2]])
    assert batch.clip.shape == (2, 3, 1, 6, 8)
    assert batch.mask.shape == (2, 1, 6, 8)
    assert (batch.dataset, batch.sequence, batch.frame) == (["d", "d"], ["s", "s"], ["1", "2"])


def test_what_a_dataset_adds_reaches_the_batch(tmp_path):
    dataset = ClipDataset([levels(tmp_path, 3)], 1, plain)
    samples = [dataset[item] | {"points": torch.ones(item + 1, 2), "size": torch.tensor([item])} for item in (0, 1)]
    batch = collate(samples)
    assert batch.size.tolist() == [[0], [1]] and [len(points) for points in batch.points] == [1, 2]
    copied = copy.copy(pickle.loads(pickle.dumps(batch)))  # as between processes, and where memory is pinned
    assert type(copied) is ClipSample and copied.size is copied["size"]


def test_collate_refuses_mixed_sizes(tmp_path):
    small = ClipDataset([levels(tmp_path / "a", 1)], 1, plain)[0]
    large = ClipDataset([levels(tmp_path / "b", 1, shape=(8, 8))], 1, plain)[0]
    with pytest.raises(InputError, match="use batch size 1"):
        collate([small, large])


def test_a_transform_that_writes_in_place_does_not_spoil_what_is_kept(tmp_path):
    def blank(frames, mask, random):
        sample = plain(frames.copy(), mask.copy(), random)
        frames[:], mask[:] = 0, False
        return sample

    dataset = ClipDataset([levels(tmp_path, 2)], 1, blank)
    first = dataset[1]
    torch.testing.assert_close(dataset[1].clip, first.clip)
    torch.testing.assert_close(dataset[1].mask, first.mask)


def test_a_raw_sequence_has_one_range_which_is_said(tmp_path):
    random = np.random.default_rng(0)
    stored = (7000 + random.integers(0, 500, (20, 24, 30))).astype(np.uint16)
    frames = tuple(
        Frame(
            str(i),
            write_image(tmp_path / f"{i}.png", array),
            write_image(tmp_path / f"m{i}.png", np.eye(24, 30, dtype=np.uint8)),
        )
        for i, array in enumerate(stored)
    )
    dataset = ClipDataset([Sequence("s", frames)], 3, plain, dataset_name="raw")
    chosen = sequence_range(range_frames(stored))
    assert dataset.raw_ranges() == {"s": chosen}
    expected = np.stack([to_unit(frame, chosen) for frame in stored[4:7]])
    np.testing.assert_array_equal(dataset[5].clip[:, 0].numpy(), expected)
    (line,) = range_lines([dataset])
    assert line.startswith("raw: 1 sequence deeper than 8 bits, each with one range")
    assert f"{chosen.low:.6g} to {chosen.high:.6g}" in line
    whole = ClipDataset([Sequence("s", frames)], 1, plain, grey_range=FRAME)
    expected = (stored[5] - stored[5].min()) / (stored[5].max() - stored[5].min())
    np.testing.assert_allclose(whole[5].clip[0, 0].numpy(), expected, atol=1e-6)
    assert whole.raw_ranges() == {} and range_lines([whole]) == []
