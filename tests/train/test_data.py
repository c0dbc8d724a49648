"""Held-out sequences, the order of batches, and scores in validation."""

import pytest
import torch
from torch import nn

from datasets import Sequence
from train_script.data import EpochBatches, evenly, hold_out
from train_script.engine import choose_amp, predict_scores
from utils.errors import InputError


def sequences(count):
    return [Sequence(str(index), ()) for index in range(count)]


def test_a_tenth_of_the_sequences_is_held_out_by_the_seed():
    train, held = hold_out(sequences(40), seed=3)
    assert len(held) == 4 and len(train) == 36
    assert {s.name for s in train} | {s.name for s in held} == {str(index) for index in range(40)}
    assert hold_out(sequences(40), seed=3) == (train, held)
    assert hold_out(sequences(40), seed=4)[1] != held
    assert len(hold_out(sequences(2), seed=0)[1]) == 1
    with pytest.raises(InputError, match="too few to hold one out"):
        hold_out(sequences(1), seed=0)


def test_a_limit_spreads_evenly():
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 9) == evenly(3, None) == [0, 1, 2]


def test_an_epoch_is_a_shuffle_of_whole_batches():
    batches = EpochBatches(list(range(100, 111)), batch_size=3, accumulate=1, seed=5)
    epochs = []
    for epoch in range(3):
        batches.start(epoch, 0)
        epochs.append(list(batches))
        assert len(batches) == 3 and [len(batch) for batch in epochs[-1]] == [3, 3, 3]
        drawn = [index for batch in epochs[-1] for index in batch]
        assert len(set(drawn)) == 9 and set(drawn) <= set(range(100, 111))
    assert epochs[0] != epochs[1] != epochs[2]


def test_an_epoch_goes_on_where_it_was_left():
    batches = EpochBatches(list(range(11)), batch_size=4, accumulate=2, seed=5)
    batches.start(1, 0)
    whole = list(batches)
    batches.start(1, 1)
    assert list(batches) == whole[2:] and len(batches) == 2
    assert [len(part) for part in whole] == [2, 2, 2, 2]


def test_processes_share_out_what_one_has(monkeypatch):
    def parts(rank, world, accumulate):
        monkeypatch.setattr("train_script.data.rank", lambda: rank)
        monkeypatch.setattr("train_script.data.world_size", lambda: world)
        return list(EpochBatches(list(range(24)), 8, accumulate, seed=1))

    alone = parts(0, 1, 2)
    first, second = parts(0, 2, 2), parts(1, 2, 2)
    assert [one + other for one, other in zip(first, second, strict=True)] == alone


class LeftHalf(nn.Module):
    """Logits 4 in the left half, and as high everywhere as the clip's first pixel."""

    def forward(self, clip):
        logits = torch.zeros_like(clip[:, 0])
        logits[..., : logits.shape[-1] // 2] = 4
        return logits + clip[:, :1, 0, :1, :1]


def test_flipped_scores_are_means_of_what_the_protocol_averages():
    clip = torch.zeros(1, 1, 1, 2, 4)
    clip[..., 0, 3] = 1  # the first pixel of the mirrored frame
    score = predict_scores(LeftHalf(), clip, (2, 4), flip=True)[0, 0, 0]
    left, right = torch.tensor([4.0, 0.0]).sigmoid(), torch.tensor([1.0, 5.0]).sigmoid()
    torch.testing.assert_close(score, ((left + right) / 2).repeat_interleave(2))
    logits = predict_scores(LeftHalf(), clip, (2, 4), flip=True, as_logits=True)[0, 0, 0]
    assert logits.tolist() == [2.5, 2.5, 2.5, 2.5]


def test_scores_have_the_size_of_the_mask():
    clip = torch.zeros(2, 1, 1, 32, 32)
    scores = predict_scores(LeftHalf(), clip, (50, 30))
    assert scores.shape == (2, 1, 50, 30) and scores.dtype == torch.float32
    assert scores[0, 0, 0, 0] == torch.tensor(4.0).sigmoid()


def test_mixed_precision_by_name():
    cpu = torch.device("cpu")
    assert choose_amp("none", cpu) is None
    assert choose_amp("bf16", cpu) is torch.bfloat16
    assert choose_amp("auto", cpu) is (torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None)
    with pytest.raises(InputError, match="needs a CUDA GPU"):
        choose_amp("fp16", cpu)
