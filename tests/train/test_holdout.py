"""What is held out to choose the best epoch by: images, sequences, or the end of a single sequence."""

from types import SimpleNamespace

import numpy as np
import pytest

from istd.datasets import ClipDataset, Frame, Sequence
from istd.train_script import holdout
from istd.train_script.data import split_sequences
from istd.train_script.holdout import describe_holdout, hold_out
from istd.utils.errors import InputError


@pytest.fixture(autouse=True)
def masks(monkeypatch):
    """Masks by their names, in which a frame's share of target pixels stands; those that were read."""
    read = []

    def read_mask(path):
        read.append(path)
        return np.arange(100).reshape(10, 10) < 100 * float(path.split("=")[1])

    monkeypatch.setattr(holdout, "read_mask", read_mask)
    return read


def sequence(name, *shares):
    """A sequence of frames whose masks have these shares of target pixels; None: no mask."""
    frames = [
        Frame(f"{number}", f"{name}{number}", None if share is None else f"{name}{number}={share}")
        for number, share in enumerate(shares)
    ]
    return Sequence(name, tuple(frames))


def names(sequences):
    return [[frame.name for frame in part.frames] for part in sequences]


def test_every_run_holds_out_the_same_tenth(masks):
    sequences = [sequence(str(index), 0.01) for index in range(40)]
    index = SimpleNamespace(split=lambda name: sequences if name == "train" else [])
    splits = [
        split_sequences(SimpleNamespace(select_on="holdout", final_test=False, seed=seed), index) for seed in (3, 42)
    ]
    assert splits[0] == splits[1]
    train, held_out = ({sequence.name for sequence in splits[0][part]} for part in ("train", "val"))
    assert held_out == {"9", "15", "22", "32"} and len(train) == 36 and not train & held_out  # for good
    assert len(set(masks)) == 1, "one mask with a target is enough to know"
    assert len(hold_out(sequences[:2])[1]) == 1


def test_what_is_held_out_shows_a_target():
    with_target = {3, 7, 20}
    sequences = [sequence(str(index), 0.01 if index in with_target else 0) for index in range(40)]
    train, held_out = hold_out(sequences)
    chosen = {part.name for part in held_out}
    assert len(chosen) == 4 and len(train) == 36
    assert len(chosen & {"9", "15", "22", "32"}) == 3, "the others stay"
    assert len(chosen & {str(index) for index in with_target}) == 1
    for count, found in ((0, "none"), (1, "one")):
        few = [sequence(str(index), 0.01 if index < count else 0) for index in range(40)]
        with pytest.raises(InputError, match=f"{found} of the 40 training images or sequences shows a target"):
            hold_out(few)


def test_a_single_sequence_is_divided_by_time_and_no_frame_is_seen_by_both_parts():
    train, held_out = hold_out([sequence("s", *[0.01] * 30)], num_frames=6)
    assert names(held_out) == [["27", "28", "29"]]
    assert names(train) == [[str(number) for number in range(21)]], "a clip's length between them is left out"
    train, held_out = hold_out([sequence("s", *[0.01] * 12, *[0.0] * 18)], num_frames=4)
    assert names(held_out) == [["9", "10", "11"]], "the last part with a target"
    assert names(train) == [["0", "1", "2", "3", "4"], [str(number) for number in range(16, 30)]]
    assert describe_holdout("sequences", "d", [sequence("s", *[0.01] * 30)], held_out) == (
        "frames 9 to 11 of the only training sequence of d"
    )


def test_parts_of_a_raw_sequence_keep_its_range(monkeypatch):
    monkeypatch.setattr(Frame, "read_image", lambda frame: np.full((2, 2), 7000 + 10 * int(frame.name), np.uint16))
    monkeypatch.setattr(Frame, "read_mask", lambda frame, shape: np.zeros(shape, bool))
    whole = sequence("s", *[0.01] * 30)

    def grey_range(parts):
        return ClipDataset(parts, 1, None).raw_ranges()["s"]

    train, held_out = hold_out([whole], num_frames=6)
    assert grey_range(train) == grey_range(held_out) == grey_range([whole])
    assert grey_range([whole]).low < 7000 < 7280 < grey_range([whole]).high, "frames 0 to 28 of 30 are sampled"


@pytest.mark.parametrize(
    ("shares", "what"),
    [([0.01], "a single image"), ([0.01] * 6, "a single sequence of 6 frames"), ([0] * 30, "a single sequence of 30")],
)
def test_too_little_to_hold_anything_out_is_said(shares, what):
    with pytest.raises(InputError, match=f"the training set is {what}.* no part with a target .*--select_on none"):
        hold_out([sequence("s", *shares)], num_frames=6)
