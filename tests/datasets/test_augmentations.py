"""Augmentations named in a recipe, on frames small enough to see what happens to them."""

import numpy as np
import pytest

from istd.datasets import ClipDataset
from istd.datasets.augmentations import MAX_SPEED, build_augmentations, copy_paste, cut_target, reverse_time, sensor
from istd.datasets.sensor import record_clip
from istd.train_script.settings import merge_settings
from istd.utils.errors import InputError
from tests.datasets.test_clips import clip_levels, levels, plain


def scene(level, shape, target=None, contrast=0, frames=3):
    """Frames of one grey level, with a target of 2 x 1 pixels at a place."""
    clip, mask = np.full((frames, *shape), level, np.uint8), np.zeros(shape, bool)
    if target:
        mask[target[0] : target[0] + 2, target[1]] = True
        clip[:, mask] += contrast
    return clip, mask


def test_a_target_is_pasted_with_its_contrast_and_nothing_else_changes():
    frames, mask = scene(50, (20, 24), target=(3, 4), contrast=10)
    donor = scene(20, (16, 16), target=(8, 9), contrast=100)
    frames.flags.writeable = mask.flags.writeable = False
    for seed in range(20):
        pasted, new = copy_paste(frames, mask, np.random.default_rng(seed), lambda: donor, share=1.0)
        added = new & ~mask
        assert added.sum() == 2 and (new & mask).sum() == 2 and pasted.dtype == np.uint8
        assert (pasted[1][added] == 150).all() and np.array_equal(pasted[1][~added], frames[1][~added])
        (row, column), *_ = np.argwhere(added)
        for number in (0, 2):
            moved = np.argwhere(pasted[number] == 150)
            assert len(moved) in (0, 2), "all of it or nothing"
            assert not len(moved) or np.abs(moved[0] - (row, column)).max() <= MAX_SPEED


def test_half_of_the_clips_by_default_and_none_without_a_target_or_room():
    frames, mask = scene(50, (12, 12))
    donor = scene(20, (16, 16), target=(8, 9), contrast=100)
    random = np.random.default_rng(0)
    changed = sum(copy_paste(frames, mask, random, lambda: donor)[1].any() for _ in range(400))
    assert 160 < changed < 240
    full = np.ones((12, 12), bool)
    for target_frames, target_mask, other in ((frames, mask, scene(20, (16, 16))), (frames, full, donor)):
        result = copy_paste(target_frames, target_mask, random, lambda other=other: other, share=1.0)
        assert result[0] is target_frames and result[1] is target_mask


def test_samples_without_a_target_are_drawn_again():
    frames, mask = scene(50, (12, 12))
    samples = [scene(20, (16, 16))] * 9 + [scene(20, (16, 16), target=(8, 9), contrast=100)]
    for seed in range(5):
        left = iter(samples)
        assert copy_paste(frames, mask, np.random.default_rng(seed), lambda left=left: next(left), 1.0)[1].sum() == 2


def test_floats_are_clipped_to_white():
    frames, mask = scene(0, (20, 24))
    donor = scene(55, (16, 16), target=(8, 9), contrast=200)
    pasted, new = copy_paste(np.full(frames.shape, 0.5, np.float32), mask, np.random.default_rng(0), lambda: donor, 1.0)
    assert (pasted[1][new] == 1).all() and (pasted[1][~new] == 0.5).all()


def test_the_level_around_a_target_is_taken_off():
    frame = np.full((9, 9), 0.25, np.float32)
    frame[4, 4], frame[4, 5] = 0.75, 0.5  # and a halo on one side
    contrast, target = cut_target(frame, frame == 0.75)
    assert contrast.shape == target.shape == (7, 7) and target.sum() == 1
    assert (contrast[3, 3], contrast[3, 4], contrast[3, 5], contrast[0, 0]) == (0.5, 0.25, 0, 0)


def test_a_worse_camera_keeps_type_inputs_and_mask():
    frames, mask = scene(50, (20, 24), target=(3, 4), contrast=60)
    frames.flags.writeable = mask.flags.writeable = False
    exact = frames / np.float32(255)
    exact.flags.writeable = False
    for seed in range(10):
        recorded, kept = sensor(frames, mask, np.random.default_rng(seed), None, share=1.0, fault_share=0.7)
        assert recorded.dtype == np.uint8 and recorded.shape == frames.shape and kept is mask
        again, _ = sensor(frames, mask, np.random.default_rng(seed), None, share=1.0, fault_share=0.7)
        assert np.array_equal(recorded, again)
        floats, kept = sensor(exact, mask, np.random.default_rng(seed), None, share=1.0, fault_share=0.7)
        assert floats.dtype == np.float32 and floats.min() >= 0 and floats.max() <= 1 and kept is mask
        assert np.array_equal(np.rint(255 * floats), recorded) and not np.array_equal(recorded, frames)
        random = np.random.default_rng(seed)
        random.random()  # whether the clip is changed at all
        assert np.array_equal(floats, record_clip(exact, mask, random, 0.7))


def test_shares_of_clips_and_of_faults():
    frames, mask = scene(50, (20, 24), target=(3, 4), contrast=60)
    random = np.random.default_rng(0)
    assert sensor(frames, mask, random, None, share=0.0)[0] is frames
    assert np.array_equal(sensor(frames, mask, random, None, share=1.0, fault_share=0.0)[0], frames)
    changed = sum(sensor(frames, mask, random, None, fault_share=1.0)[0] is not frames for _ in range(400))
    assert 160 < changed < 240, "half of the clips by default"
    (step,) = build_augmentations(["sensor"], {"sensor.share": "1", "sensor.fault_share": "0"})
    assert np.array_equal(step(frames, mask, random, None)[0], frames)


@pytest.mark.parametrize(("num_frames", "target"), [(4, None), (3, None), (3, 2)])
def test_reversed_clips_keep_their_target_frame(tmp_path, num_frames, target):
    sequence = levels(tmp_path, 12)
    forward = ClipDataset([sequence], num_frames, plain, target=target)
    step = build_augmentations(["reverse_time"], {"reverse_time.share": "1"})
    backward = ClipDataset([sequence], num_frames, plain, target=target, augment=step)
    place = num_frames // 2 if target is None else target
    assert clip_levels(forward[6]) == [6 - place + number for number in range(num_frames)]
    assert clip_levels(backward[6]) == [6 + place - number for number in range(num_frames)]
    assert backward[6].mask[0, 1:].equal(forward[6].mask[0, 1:])  # `plain` writes its draw into the first row
    never = build_augmentations(["reverse_time"], {"reverse_time.share": 0})
    unchanged = ClipDataset([sequence], num_frames, plain, target=target, augment=never)
    assert clip_levels(unchanged[6]) == clip_levels(forward[6])


def test_steps_act_in_order_and_see_other_samples(tmp_path):
    seen = []

    def look(frames, mask, random, other):
        donor_frames, donor_mask = other()
        seen.append((frames.shape, donor_frames.shape, donor_mask.shape))
        return frames, mask

    dataset = ClipDataset([levels(tmp_path, 12)], 4, plain, augment=(look, reverse_time, look))
    assert dataset[6].clip.shape[0] == 4
    assert seen == [((5, 6, 8), (5, 6, 8), (6, 8))] * 2


def test_a_recipe_names_them_and_their_options():
    settings = {"augment": ["copy_paste", "reverse_time"], "augment_options": {"copy_paste.share": "0.3"}}
    assert merge_settings(None, settings).augment == ["copy_paste", "reverse_time"]
    first, second = build_augmentations(settings["augment"], settings["augment_options"])
    assert (first.func, first.keywords) == (copy_paste, {"share": 0.3})
    assert (second.func, second.keywords) == (reverse_time, {})
    for wrong, message in (
        ({"augment": ["copy_past"]}, "augmentation 'copy_past' is unknown; did you mean copy_paste"),
        ({"augment_options": {"copy_paste.share": 1}}, "has 'copy_paste.share'; expected .* there are none"),
        (settings | {"augment_options": {"copy_paste.shares": 1}}, "expected options of augment: copy_paste.share"),
        (settings | {"augment_options": {"copy_paste.share": "x"}}, "expected number"),
    ):
        with pytest.raises(InputError, match=message):
            merge_settings(None, wrong)
