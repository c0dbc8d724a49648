import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from istd.datasets.presets import (
    CONTRAST,
    CROP_SIDES,
    FIRST_SHORT_SIDES,
    SECOND_SHORT_SIDES,
    build_transform,
    crop_train,
)
from istd.datasets.transforms import (
    crop_around,
    linear_weights,
    nearest_indices,
    resample,
    resize_mask,
    short_side_size,
)
from istd.utils.errors import InputError

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def smooth_frames(frames, height, width, seed=0):
    """Grey levels 80..170: no published distortion clips them by more than contrast 1.5 does at the bright end."""
    noise = torch.rand(frames, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    return (80 + 60 * tv.resize(noise, [height, width])[:, 0]).round().numpy().astype(np.uint8)


@pytest.mark.parametrize(("length", "new_length"), [(256, 480), (320, 320), (700, 320), (97, 40), (5, 11)])
def test_linear_weights_are_torchvisions_antialiased_resize(length, new_length):
    signal = torch.rand(1, length, 3)
    expected = tv.resize(signal, [new_length, 3], antialias=True)[0]
    got = torch.from_numpy(linear_weights(length, new_length) @ signal[0].numpy())
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=0)  # torchvision computes its weights in float32


@pytest.mark.parametrize(("length", "new_length"), [(256, 480), (700, 320), (97, 40)])
def test_nearest_indices_are_pillows(length, new_length):
    signal = torch.arange(float(length)).view(1, length, 1)
    expected = tv.resize(signal, [new_length, 1], InterpolationMode.NEAREST_EXACT)[0, :, 0]
    assert nearest_indices(length, new_length).tolist() == expected.int().tolist()


def test_a_mask_is_resized_to_the_nearest_pixels_and_not_at_all_where_sizes_agree():
    mask = np.array([[True, False], [False, True]])
    assert resize_mask(mask, 2, 4).astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert resize_mask(mask, 2, 2) is mask


def test_resample_acts_on_rows_and_columns():
    frames = np.random.default_rng(0).random((2, 5, 7), dtype=np.float32)
    rows, columns = linear_weights(5, 8), linear_weights(7, 4)
    expected = np.stack([rows.toarray() @ frame @ columns.toarray().T for frame in frames])
    np.testing.assert_allclose(resample(frames, rows, columns), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "short", "limit", "expected"),
    [
        ((256, 320), 480, 800, (480, 600)),
        ((256, 512), 480, 800, (400, 800)),  # 960 would exceed the limit: 800 / 2
        ((512, 256), 480, 800, (800, 400)),
        ((256, 333), 500, None, (500, 650)),  # 650.39 is cut
    ],
)
def test_short_side_size(size, short, limit, expected):
    assert short_side_size(*size, short, limit) == expected


def published_sgmp_training(frames, mask, size, random):
    """The recipe step by step with torchvision on RGB, drawing in the same order."""
    clip = torch.from_numpy(frames).float()[:, None].expand(-1, 3, -1, -1)
    mask = torch.from_numpy(mask).float()[None, None]
    if random.random() < 0.5:
        clip, mask = tv.hflip(clip), tv.hflip(mask)
    first = short_side_size(*frames.shape[1:], int(random.choice(FIRST_SHORT_SIDES)), 800)
    clip = tv.resize(clip, first, antialias=True)
    mask = tv.resize(mask, first, InterpolationMode.NEAREST_EXACT)
    distorted = []
    for frame in clip:
        offset = random.uniform(-32, 32) if random.random() < 0.5 else 0
        gain = random.uniform(*CONTRAST) if random.random() < 0.5 else 1
        distorted.append(((frame + offset) * gain).clamp(0, 255))
    second = short_side_size(*first, int(random.choice(SECOND_SHORT_SIDES)))
    clip = tv.resize(torch.stack(distorted), second, antialias=True)
    mask = tv.resize(mask, second, InterpolationMode.NEAREST_EXACT)
    window = []
    for side in second:
        crop = int(random.integers(CROP_SIDES[0], min(side, CROP_SIDES[1]), endpoint=True))
        window.append((int(random.integers(0, side - crop, endpoint=True)), crop))
    (top, height), (left, width) = window
    clip = tv.resize(tv.crop(clip, top, left, height, width), [size, size], antialias=True)
    mask = tv.resize(tv.crop(mask, top, left, height, width), [size, size], InterpolationMode.NEAREST_EXACT)
    return (clip / 255 - MEAN) / STD, mask[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(256, 320), (300, 200)])
def test_sgmp_training_is_the_recipe_step_by_step(seed, shape):
    frames = smooth_frames(3, *shape, seed)
    mask = np.zeros(shape, bool)
    mask[100:140, 60:130] = True
    clip, got_mask = build_transform("sgmp_unet", True, 320, 3)(frames, mask, np.random.default_rng(seed))
    expected, expected_mask = published_sgmp_training(frames, mask, 320, np.random.default_rng(seed))
    torch.testing.assert_close(clip, expected, atol=2e-3, rtol=0)
    assert torch.equal(got_mask, expected_mask)


def test_sgmp_training_draws_what_the_recipe_says():
    assert list(FIRST_SHORT_SIDES) == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    transform = build_transform("sgmp_unet", True, 32, 1)
    frames = np.full((2, 64, 64), 128, np.uint8)
    random = np.random.default_rng(0)
    levels = np.array([transform(frames, frames[0] > 0, random)[0][:, 0, 0, 0].numpy() for _ in range(800)])
    start = 128 / 255
    assert 0.2 < np.isclose(levels, start, atol=1e-6).mean() < 0.3, "a quarter of the frames is left as it is"
    assert levels.min() > (start - 32 / 255) * 0.5 - 1e-6
    assert levels.min() < 0.25
    assert levels.max() > 0.9
    assert abs(np.corrcoef(levels.T)[0, 1]) < 0.1, "each frame has its own draw"


@pytest.mark.parametrize(
    ("shape", "size"),
    [((256, 256), (320, 320)), ((480, 720), (320, 480)), ((256, 320), (320, 416)), ((100, 400), (160, 576))],
)
def test_sgmp_evaluation(shape, size):
    frames, mask = smooth_frames(2, *shape), np.zeros(shape, bool)
    mask[5, 7] = True
    clip, got_mask = build_transform("sgmp_unet", False, 320, 3)(frames, mask, None)
    expected = tv.resize(torch.from_numpy(frames).float()[:, None].expand(-1, 3, -1, -1), size, antialias=True)
    torch.testing.assert_close(clip, (expected / 255 - MEAN) / STD, atol=1e-4, rtol=0)
    assert np.array_equal(got_mask[0].numpy(), mask), "the mask keeps its size"


@pytest.mark.parametrize("train", [True, False])
def test_datransnet_is_grey_by_255_without_augmentation(train):
    frames = smooth_frames(1, 256, 256)
    mask = frames[0] > 120
    clip, got_mask = build_transform("datransnet", train, 256, 1)(frames, mask, np.random.default_rng(0))
    assert np.array_equal(clip[:, 0].numpy(), frames / np.float32(255))
    assert np.array_equal(got_mask[0].numpy(), mask)


def test_fast_evaluation_keeps_the_scale():
    transform = build_transform("grey", False, 128, 1)
    frames, mask = smooth_frames(2, 256, 320), np.zeros((256, 320), bool)
    assert np.array_equal(transform(frames, mask, None)[0][:, 0].numpy(), frames / np.float32(255))
    clip, mask = transform(smooth_frames(2, 255, 321), np.zeros((255, 321), bool), None)
    assert clip.shape == (2, 1, 255, 321) and mask.shape == (1, 255, 321), "the predictor pads"


def test_contrast_is_what_stands_out_of_the_neighbourhood_in_units_of_its_spread():
    frames = smooth_frames(2, 64, 96)
    frames[1, 40, 50] = 255
    (clip, _), (brighter, _) = (
        build_transform("local_contrast", False, 0, 3)(given, np.zeros((64, 96), bool), None)
        for given in (frames.astype(np.float32) / 255, frames.astype(np.float32) / 510 + 0.25)
    )
    assert clip.shape == (2, 3, 64, 96)
    padded = np.pad(frames[1] / 255, 10, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, (21, 21)).mean((2, 3))
    contrast = frames[1] / 255 - around
    np.testing.assert_allclose(clip[1], np.stack([contrast / contrast.std()] * 3), atol=1e-4)
    np.testing.assert_allclose(brighter, clip, atol=1e-3)  # brightness and gain of the sensor do not count
    empty = build_transform("local_contrast", False, 0, 1)(
        np.full((1, 32, 32), 0.5, np.float32), np.zeros((32, 32), bool), None
    )
    assert empty[0].abs().max() < 1e-3


@pytest.mark.parametrize("preset", ["sgmp_unet", "datransnet", "grey", "local_contrast"])
@pytest.mark.parametrize("depth", [np.uint8, np.float32])
def test_image_and_mask_stay_aligned(preset, depth):
    """A marked square lands where the mask says, in every frame."""
    random = np.random.default_rng(0)
    shape = (160, 192)
    dark, bright = (60, 180) if depth == np.uint8 else (60 / 255, 180 / 255)
    target_share = {"target_share": 1.0} if preset in ("grey", "local_contrast") else {}
    transform = partial(build_transform(preset, True, 96, 1), **target_share)
    seen = 0
    for draw in range(32):
        if draw % 4 == 0:  # at eight places
            mask = np.zeros(shape, bool)
            y, x = random.integers(50, 100), random.integers(50, 130)
            mask[y : y + 4, x : x + 4] = True
            frames = np.broadcast_to(np.where(mask, bright, dark).astype(depth), (3, *shape))
        clip, got = transform(frames, mask, random)
        rows, columns = np.nonzero(got[0].numpy())
        if not len(rows) or min(rows.min(), columns.min()) < 3 or max(rows.max(), columns.max()) > 92:
            continue  # cropped away, or cut
        for frame in clip[:, 0].numpy():
            light = np.clip(frame - np.median(frame), 0, None)
            centre = [(light.sum(1) * np.arange(96)).sum(), (light.sum(0) * np.arange(96)).sum()] / light.sum()
            assert np.allclose(centre, [rows.mean(), columns.mean()], atol=0.6)
        seen += 1
    assert seen >= (4 if preset == "sgmp_unet" else 16)


def test_fast_crops_contain_a_target_as_often_as_asked():
    shape = (256, 256)
    frames, mask = np.zeros((1, *shape), np.uint8), np.zeros(shape, bool)
    mask[:2, 250:] = mask[200, 30] = True
    for share, expected in ((1.0, 1.0), (0.0, None)):
        transform = partial(crop_train, size=64, channels=1, target_share=share)
        random = np.random.default_rng(0)
        found = np.mean([bool(transform(frames, mask, random)[1].any()) for _ in range(150)])
        assert found == expected if expected else 0 < found < 0.3


def test_fast_crops_are_drawn_evenly_without_targets():
    random = np.random.default_rng(0)
    places = np.array([crop_around(None, (100, 80), 60, 8, random) for _ in range(3000)])
    assert (places.min(0) == 0).all()
    assert places.max(0).tolist() == [40, 20]
    assert np.allclose(places.mean(0), [20, 10], atol=1)


def test_a_crop_around_a_target_keeps_its_margin_where_it_can():
    random = np.random.default_rng(0)
    mask = np.zeros((100, 100), bool)
    mask[50, 2] = True
    places = np.array([crop_around(mask, mask.shape, 40, 8, random) for _ in range(500)])
    assert (places[:, 1] == 0).all(), "near the border the window cannot go further"
    assert places[:, 0].min() == 50 - 40 + 1 + 8
    assert places[:, 0].max() == 50 - 8


def test_crops_are_drawn_around_each_target_in_turn():
    random = np.random.default_rng(0)
    mask = np.zeros((100, 100), bool)
    mask[10, 10] = mask[90, 90] = True
    tops = [crop_around(mask, mask.shape, 20, 4, random)[0] for _ in range(200)]
    assert 60 < sum(top > 50 for top in tops) < 140


def test_fast_never_loses_a_small_target():
    frames, mask = np.zeros((1, 48, 40), np.uint8), np.zeros((48, 40), bool)
    mask[20, 20] = True
    transform = partial(crop_train, size=96, channels=3, target_share=1.0)
    random = np.random.default_rng(1)
    for _ in range(50):
        clip, got = transform(frames, mask, random)
        assert clip.shape == (1, 3, 96, 96)
        assert got.any()


def test_small_images_are_continued_by_reflection_and_keep_their_scale():
    frames, mask = np.arange(12, dtype=np.float32).reshape(1, 3, 4) / 12, np.zeros((3, 4), bool)
    mask[0, 1] = True
    expected = np.pad(mask, [(1, 2), (1, 1)], mode="reflect")
    assert np.argwhere(expected).tolist() == [[1, 0], [1, 2], [5, 0], [5, 2]], (
        "by hand: rows 1 0 1 2 1 0, columns 1 0 1 2 3 2"
    )
    forms = [np.rot90(side, turns) for side in (expected, expected[:, ::-1]) for turns in range(4)]
    for contrast, seed in itertools.product((False, True), range(20)):
        random = np.random.default_rng(seed)
        clip, got = crop_train(frames, mask, random, 6, 1, contrast=contrast, enlarge_share=0.0, target_share=1.0)
        assert any(np.array_equal(got[0].numpy() > 0, form) for form in forms)
        assert len(np.unique(clip.numpy())) == 12, "nothing is interpolated"


def test_without_enlarging_crops_are_pixels_of_the_image():
    frames = np.random.default_rng(0).permutation(64 * 64).reshape(1, 64, 64).astype(np.float32) / 4096
    mask = frames[0] > 0.99
    whole = partial(crop_train, size=64, channels=1, enlarge_share=0.0)
    random = np.random.default_rng(0)
    for _ in range(20):
        clip, got = whole(frames, mask, random)
        ranks = clip[0, 0].flatten().argsort().argsort()  # gain and offset keep the order
        assert sorted(ranks.tolist()) == list(range(64 * 64)), "no pixel is repeated or interpolated"
        assert (got[0].flatten() == (ranks >= 4096 - mask.sum())).all()


def test_the_fast_preset_flips_and_turns():
    frames, mask = np.zeros((1, 32, 32), np.uint8), np.zeros((32, 32), bool)
    mask[5, 9] = True
    random = np.random.default_rng(0)
    transform = build_transform("grey", True, 32, 1)
    places = set()
    for _ in range(200):
        rows, columns = np.nonzero(transform(frames, mask, random)[1][0].numpy())
        if len(rows) == 1:
            places.add((int(rows[0]), int(columns[0])))
    flipped = {(5, 9), (5, 22)}
    turned = flipped | {(31 - column, row) for row, column in flipped}
    assert turned | {(31 - row, 31 - column) for row, column in turned} <= places


def test_the_fast_preset_changes_brightness_and_contrast_of_the_clip_as_a_whole():
    frames = smooth_frames(4, 64, 64)
    transform = build_transform("grey", True, 64, 1)
    gains, offsets = [], []
    for seed in range(60):
        clip = transform(frames, np.zeros((64, 64), bool), np.random.default_rng(seed))[0][:, 0].double().numpy()
        gains.append(clip.std() / (frames / 255).std())
        offsets.append(clip.mean() - (frames / 255).mean())
    assert min(gains) < 0.8
    assert 1.25 < max(gains) < 1.75
    assert min(offsets) < -0.06
    assert max(offsets) > 0.06


def test_wrong_presets_are_said():
    with pytest.raises(
        InputError, match="preset 'slow' is unknown; expected one of sgmp_unet, datransnet, grey, local_contrast"
    ):
        build_transform("slow", True, 32, 1)
    with pytest.raises(InputError, match="2 channels"):
        build_transform("grey", True, 32, 2)
