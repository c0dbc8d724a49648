"""Hold out training data by which the best epoch is chosen."""

import torch

from istd.datasets import Frame, Sequence
from istd.utils.errors import InputError
from istd.utils.images import read_mask

HOLDOUT_SHARE, HOLDOUT_SEED = 0.1, 42


def hold_out(sequences: list[Sequence], num_frames: int = 1) -> tuple[list[Sequence], list[Sequence]]:
    """Split training sequences into (sequences that train, a random HOLDOUT_SHARE of them for selection).

    Sequences are not divided, because their frames are near copies of each other; both parts keep the order. The choice
    does not depend on the seed: otherwise fine-tuned weights would be validated on images that they were trained on
    before, and runs of several seeds could not be compared. If no held-out sequence shows a target, which no metric
    could judge, the last of them is replaced by the next in the random order that does. A single sequence is divided
    in time, for clips of `num_frames` frames. Raises `InputError` where there is too little to hold out.
    """
    if len(sequences) == 1:
        return hold_out_frames(sequences[0], num_frames)
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(HOLDOUT_SEED)).tolist()
    count = max(1, round(HOLDOUT_SHARE * len(sequences)))
    chosen, others = order[:count], order[count:]
    masked = any(frame.mask for sequence in sequences for frame in sequence.frames)
    if masked and not any(has_target(sequences[index].frames) for index in chosen):
        with_target = (index for index in others if has_target(sequences[index].frames))
        first, second = next(with_target, None), next(with_target, None)
        if second is None:
            number = "none" if first is None else "one"
            raise InputError(
                f"{number} of the {len(sequences)} training images or sequences shows a target, expected at least two, "
                "to train on and to hold out; look at the masks with datasets.check"
            )
        chosen[-1] = first
    train = [sequence for index, sequence in enumerate(sequences) if index not in chosen]
    return train, [sequence for index, sequence in enumerate(sequences) if index in chosen]


def hold_out_frames(sequence: Sequence, num_frames: int) -> tuple[list[Sequence], list[Sequence]]:
    """Split a single sequence into (parts that train, held-out part), the last HOLDOUT_SHARE that has a target.

    On either side of the held-out part, `num_frames` frames are left out, and clips never reach beyond their part, so
    that training and validation share no frame. Both keep the grey range of the whole sequence.
    """
    frames = sequence.frames
    count = max(1, round(HOLDOUT_SHARE * len(frames)))
    for stop in range(len(frames), count - 1, -count):
        start = stop - count
        parts = [frames[: max(0, start - num_frames)], frames[stop + num_frames :]]
        train = [Sequence(sequence.name, part, frames) for part in parts if any(frame.mask for frame in part)]
        if train and has_target(frames[start:stop]):
            return train, [Sequence(sequence.name, frames[start:stop], frames)]
    what = "a single image" if len(frames) == 1 else f"a single sequence of {len(frames)} frames"
    raise InputError(
        f"the training set is {what}, of which no part with a target can be held out for validation; train on all of "
        "it with --select_on none, or add data"
    )


def has_target(frames: tuple[Frame, ...]) -> bool:
    """Whether the mask of any frame has a target; reads no further masks once it finds a target."""
    return any(bool(read_mask(frame.mask).any()) for frame in frames if frame.mask is not None)


def describe_holdout(kind: str, name: str, training: list[Sequence], held_out: list[Sequence]) -> str:
    """Describe what is held out of the `training` sequences of a dataset, for the log."""
    if len(training) > 1 or len(held_out[0].frames) == len(training[0].frames):
        return f"{len(held_out)} of {len(training)} training {kind} of {name}"
    first, last = (held_out[0].frames[place].name for place in (0, -1))
    return f"frames {first} to {last} of the only training sequence of {name}"
