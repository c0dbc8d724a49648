"""The predictor: padding, tiles, flips, scales, threads, and independence of the batch size."""

import doctest
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import istd.test_script.predictor
from istd.datasets.presets import build_transform
from istd.datasets.rendering import RenderConfig, render_sequence
from istd.models import Network, build_model
from istd.test_script.predictor import FrameResult, Prediction, Predictor, ScoreMaps
from istd.test_script.predictor.detections import Detection, find_detections, ranking_scores
from istd.test_script.predictor.predictor import mean_log_odds
from istd.test_script.predictor.preparation import (
    as_grey_frames,
    eval_transform,
    frame_preparation,
    sliding_clips,
    stack_clip,
)
from istd.test_script.predictor.tiling import blend_weights, pad_to_multiple, reflected_index, run_tiled, tile_starts
from istd.utils.errors import InputError
from istd.utils.grey_levels import FRAME, sequence_range, to_unit
from tests.reference.local_contrast import LocalContrast


class StandIn(Network):
    """A random convolution over the clip, with the attributes of our networks."""

    name = "datransnet"
    size_multiple = 32

    def __init__(self, num_frames=1, in_channels=1):
        super().__init__()
        self.num_frames, self.in_channels = num_frames, in_channels
        self.conv = nn.Conv2d(num_frames * in_channels, 1, 5, padding=2, bias=False)
        generator = torch.Generator().manual_seed(1)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator)
        self.seen = []

    def forward(self, clip):
        assert clip.shape[-1] % 32 == clip.shape[-2] % 32 == 0
        self.seen.append(tuple(clip.shape))
        return self.conv(clip.flatten(1, 2))


def prepare(frame):
    return torch.from_numpy(frame)[None]


def frames(count, height, width, seed=0):
    return np.random.default_rng(seed).random((count, height, width), dtype=np.float32)


def test_reflection_pads_also_where_the_image_is_smaller_than_the_padding():
    assert reflected_index(4, 0, 6).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert reflected_index(1, 0, 2).tolist() == [0, 0, 0]
    assert reflected_index(3, 3, 1).tolist() == [1, 2, 1, 0, 1, 2, 1]
    image = torch.arange(12.0).reshape(3, 4)
    expected = np.pad(image.numpy(), ((0, 29), (0, 28)), mode="reflect")
    np.testing.assert_array_equal(pad_to_multiple(image, 32).numpy(), expected)


def test_any_size_is_padded_and_cut_back():
    model = StandIn()
    image = frames(1, 37, 50)
    result = Predictor(model, prepare)(image)
    padded = np.pad(image[0], ((0, 27), (0, 14)), mode="reflect")
    expected = model(torch.from_numpy(padded)[None, None, None]).sigmoid()[0, 0, :37, :50]
    np.testing.assert_allclose(result.probability[0], expected.detach().numpy(), atol=1e-6)
    assert model.seen[0] == (1, 1, 1, 64, 64)


def test_tiles_cover_and_overlap():
    for length in (64, 65, 100, 257, 1000):
        starts = tile_starts(length, 64, 16)
        assert starts[0] == 0 and starts[-1] == length - 64
        assert all(0 < b - a <= 64 - 16 for a, b in itertools.pairwise(starts))
    weights = blend_weights(64, 16)
    assert weights.min() > 0 and weights[32, 32] == 1 and torch.equal(weights, weights.flip(0).T)


def test_tiles_of_a_local_network_agree_with_the_whole_frame():
    clip = torch.from_numpy(frames(1, 150, 201))[None, None]
    model = StandIn()

    def run(tile):  # the values near a tile's edge see its zero padding: only the middle of the weights may count
        return model(tile)

    tiled = run_tiled(run, clip, 96, 64).detach()
    whole = model(F.pad(clip, (0, 23, 0, 10)))[..., :150, :201].detach()
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.05 * whole.abs().mean()


def test_a_constant_image_stays_constant_in_tiles():
    constant = np.full((1, 150, 201), 0.4, np.float32)
    result = Predictor(LocalContrast(), prepare, tile=96)(constant)
    assert np.ptp(result.probability) < 1e-6
    assert result.detections == [[]]


@pytest.mark.parametrize("position", [(54, 20), (70, 105), (0, 0), (149, 200)])
def test_a_target_on_a_tile_border_is_found_once(position):
    row, column = position
    image = np.full((1, 150, 201), 0.3, np.float32)
    image[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0.9
    assert tile_starts(150, 96, 64) == [0, 27, 54] and tile_starts(201, 96, 64) == [0, 26, 52, 79, 105]
    (found,) = Predictor(LocalContrast(), prepare, tile=96)(image).detections[0]
    assert abs(found.x - column) <= 1 and abs(found.y - row) <= 1


def test_flip_averaging_of_a_symmetric_input_is_symmetric():
    half = frames(2, 40, 33)
    symmetric = np.concatenate([half, half[..., ::-1]], axis=-1)
    result = Predictor(StandIn(), prepare, flip=True, scales=(0.8, 1.0, 1.3))(symmetric)
    np.testing.assert_array_equal(result.probability, result.probability[..., ::-1])
    plain = Predictor(StandIn(), prepare)(symmetric).probability
    assert not np.array_equal(plain, plain[..., ::-1])


def test_multi_scale_and_both_releases_of_sgmp_from_one_set_of_passes():
    """sgmp-2026: mean over flips of the mean over scales of sigmoids; sgmp-2025: mean over flips of scale-1 logits."""
    model = StandIn(num_frames=2)
    clip = torch.from_numpy(frames(2, 64, 96))[:, None]
    scales = (0.8, 1.0, 1.2)
    predictor = Predictor(model, prepare, flip=True, scales=scales)
    (maps,) = predictor.score_maps([clip], [(100, 130)], probability=True, logit=True)
    # int(0.8 * 64) = 51 -> 64 and int(0.8 * 96) = 76 -> 96; int(1.2 * 64) = 76 -> 96 and int(1.2 * 96) = 115 -> 128;
    # each also mirrored. Passes run in parallel, so in any order.
    assert sorted(shape[-2:] for shape in model.seen) == [(64, 96)] * 4 + [(96, 128)] * 2

    def at_mask(logits):
        return F.interpolate(logits, size=(100, 130), mode="bilinear", align_corners=False)[0, 0]

    def passes(x):
        sizes = {0.8: (64, 96), 1.0: (64, 96), 1.2: (96, 128)}
        scaled = [F.interpolate(x, size=sizes[s], mode="bilinear", align_corners=False) for s in scales]
        return [at_mask(model(one[None])) for one in scaled]

    plain, mirrored = passes(clip), [logit.flip(-1) for logit in passes(clip.flip(-1))]
    expected = torch.stack([torch.stack(views).sigmoid().mean(0) for views in (plain, mirrored)]).mean(0)
    np.testing.assert_allclose(maps.probability, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(maps.logit, ((plain[1] + mirrored[1]) / 2).detach().numpy(), atol=1e-5)


def test_the_logit_needs_no_scale_1_among_the_scales_and_no_probability_passes():
    model = StandIn()
    clip = torch.from_numpy(frames(1, 64, 64))[None]
    predictor = Predictor(model, prepare, scales=(0.5, 1.5))
    (both,) = predictor.score_maps([clip], [(64, 64)], probability=True, logit=True)
    assert len(model.seen) == 3
    model.seen.clear()
    (alone,) = predictor.score_maps([clip], [(64, 64)], probability=False, logit=True)
    assert len(model.seen) == 1 and alone.probability is None
    np.testing.assert_array_equal(both.logit, alone.logit)


def test_batch_size_does_not_change_a_bit():
    clips = list(torch.from_numpy(frames(5, 64, 96))[:, None, None])
    sizes = [(64, 96)] * 5
    options = {"flip": True, "scales": (0.8, 1.0)}
    one, four = (Predictor(StandIn(), prepare, batch_size=size, **options) for size in (1, 4))
    singly = [one.score_maps([clip], [size])[0] for clip, size in zip(clips, sizes, strict=True)]
    for a, b in zip(singly, four.score_maps(clips, sizes), strict=True):
        np.testing.assert_array_equal(a.probability, b.probability)


def test_the_batched_passes_of_a_gpu_are_those_of_the_cpu():
    """Run here on the CPU: the grouping by size and the views of a batch, with clips of two sizes."""
    clips = [torch.from_numpy(frames(1, *size, seed=i))[None] for i, size in enumerate([(40, 50), (64, 64), (40, 50)])]
    sizes = [(40, 50), (30, 30), (80, 100)]
    predictor = Predictor(StandIn(), prepare, flip=True, scales=(0.8, 1.0), batch_size=2)
    passes = [(scale, flip) for scale in (0.8, 1.0) for flip in (False, True)]
    with torch.inference_mode():
        batched_maps = predictor._passes_on_gpu(clips, sizes, passes)
        single_maps = predictor._passes_on_cpu(clips, sizes, passes, workers=1)
    for one, other in zip(batched_maps, single_maps, strict=True):
        assert list(one) and set(one) == set(other)
        for key in one:
            torch.testing.assert_close(one[key], other[key])


def test_cores_do_not_change_a_bit_of_a_real_network():
    torch.manual_seed(0)
    model = build_model("datransnet", image_size=64, width=8).eval()
    clips = list(torch.from_numpy(frames(3, 71, 97))[:, None, None])
    kept, maps = torch.get_num_threads(), {}
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            predictor = Predictor(model, prepare, flip=True, scales=(0.8, 1.0))
            maps[cores] = predictor.score_maps(clips, [(71, 97), (30, 40), (150, 201)], logit=True)
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(kept)
    for cores in (2, 3):
        for one, other in zip(maps[1], maps[cores], strict=True):
            np.testing.assert_array_equal(one.probability, other.probability)
            np.testing.assert_array_equal(one.logit, other.logit)


class Threads(StandIn):
    """Records the number of threads of each pass, and the precision of convolutions on a GPU."""

    def forward(self, clip):
        self.seen.append((torch.get_num_threads(), torch.backends.cudnn.allow_tf32))
        return self.conv(clip.flatten(1, 2))


@pytest.mark.parametrize(
    ("count", "options", "threads"),
    [
        (1, {}, [4]),  # a single pass takes all cores
        (1, {"flip": True}, [2, 2]),
        (1, {"flip": True, "scales": (0.5, 1.0, 1.5)}, [1] * 6),
        (1, {"deterministic": True}, [1]),
        (2, {}, [1, 1]),  # several frames share the cores, whatever the batch size
        (2, {"batch_size": 1}, [1, 1]),
    ],
)
def test_a_frame_alone_takes_all_cores(count, options, threads):
    model, kept = Threads(), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        predictor = Predictor(model, prepare, **options)
        predictor(frames(count, 32, 32))
        assert torch.get_num_threads() == 4
        assert predictor.batch_size == options.get("batch_size", 4)
    finally:
        torch.set_num_threads(kept)
    assert [seen for seen, _ in model.seen] == threads


def test_the_default_batch_fills_the_cores():
    kept = torch.get_num_threads()
    torch.set_num_threads(13)
    try:
        assert Predictor(StandIn(), prepare).batch_size == 13
        assert Predictor(StandIn(), prepare, flip=True).batch_size == 7
    finally:
        torch.set_num_threads(kept)


def test_float32_on_a_gpu_is_not_tf32():
    """Run here on the CPU: the setting within the passes of a GPU, and after them."""
    model, kept = Threads(), torch.backends.cudnn.allow_tf32
    clip = torch.from_numpy(frames(1, 32, 32))[None]
    try:
        torch.backends.cudnn.allow_tf32 = True
        with torch.inference_mode():
            Predictor(model, prepare)._passes_on_gpu([clip], [(32, 32)], [(1.0, False)])
        assert [tf32 for _, tf32 in model.seen] == [False] and torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = kept


def test_the_example_for_notebooks(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    settings = RenderConfig(1, 3, (96, 128), (15.0, 25.0), (0.5, 1.0), (1, 1), "cloud")
    clip = render_sequence("example", settings, 20.0, np.random.default_rng(5))
    assert clip.masks.any(axis=(1, 2)).all()
    results = doctest.testmod(istd.test_script.predictor, extraglobs={"frames": clip.frames})
    assert results.attempted == 7 and results.failed == 0


def test_sliding_clips_repeat_the_edges_and_take_each_frame_once():
    taken = []

    def source(count):
        for i in range(count):
            taken.append(i)
            yield i

    clips = list(sliding_clips(source(4), 6))
    assert taken == [0, 1, 2, 3]
    assert [target for target, _ in clips] == [0, 1, 2, 3]
    assert [clip for _, clip in clips] == [
        [max(0, min(3, target + offset)) for offset in (-3, -2, -1, 0, 1, 2)] for target in range(4)
    ]
    assert list(sliding_clips(source(1), 6)) == [(0, [0] * 6)]
    assert list(sliding_clips(source(0), 6)) == []
    assert list(sliding_clips(source(2), 1)) == [(0, [0]), (1, [1])]


def test_a_causal_clip_is_complete_with_its_target():
    taken = []
    clips = sliding_clips((taken.append(frame) or frame for frame in range(7)), 4, stride=2, target=3)
    for target, clip in clips:
        assert taken == list(range(target + 1))  # no later frame is waited for
        assert clip == [max(0, target - 6), max(0, target - 4), max(0, target - 2), target]
    assert target == 6


def test_frames_of_a_clip_may_be_apart():
    clips = list(sliding_clips(range(6), 4, stride=2))
    assert [target for target, _ in clips] == list(range(6))
    assert [clip for _, clip in clips] == [
        [max(0, min(5, target + offset)) for offset in (-4, -2, 0, 2)] for target in range(6)
    ]


def test_a_predictor_gives_a_network_the_clips_it_asks_for():
    class Causal(StandIn):
        frame_stride = 2
        target_index = 3

        def forward(self, clip):
            levels.append(clip[0, :, 0, 0, 0].tolist())
            return clip[:, 3]

    levels, model = [], Causal(num_frames=4)
    grey = np.arange(5, dtype=np.float32)[:, None, None] / 10 * np.ones((5, 32, 32), np.float32)
    list(Predictor(model, prepare, batch_size=1).stream(iter(grey), live=True))
    expected = [[max(0, target - back) / 10 for back in (6, 4, 2, 0)] for target in range(5)]
    np.testing.assert_allclose(levels, expected, rtol=1e-6)


def test_a_multi_frame_network_sees_the_frames_around_its_target():
    class Second(StandIn):
        def forward(self, clip):
            return clip[:, 1] * 10 - 5  # the frame before the target, of T = 4

    clip = frames(6, 32, 32)
    result = Predictor(Second(num_frames=4), prepare, batch_size=3)(clip)
    before = clip[[0, 0, 1, 2, 3, 4]]
    np.testing.assert_allclose(result.probability, 1 / (1 + np.exp(5 - 10 * before)), atol=1e-6)
    np.testing.assert_array_equal(result.mask, result.probability > 0.5)


def test_detections_by_hand():
    mask = np.zeros((8, 10), bool)
    log_odds = np.zeros((8, 10), np.float32)
    mask[5, 1] = mask[6, 2] = True  # touch at a corner: one region
    log_odds[5, 1], log_odds[6, 2] = 3, -1  # mean 1: 1/2 + 1/4; peak 3: 1/2 + 3/8
    mask[0:2, 7:10] = True
    log_odds[0:2, 7:10] = -1
    first, second = find_detections(mask, log_odds)
    assert first == (1, 8.0, 0.5, 7, 0, 3, 2, 6, 0.25, 0.25)
    assert second == (2, 1.5, 5.5, 1, 5, 2, 2, 2, 0.75, 0.875)
    assert find_detections(np.zeros((4, 4), bool), np.zeros((4, 4))) == []


def test_scores_rank_what_probabilities_round_to_one():
    """Also after they are written with six digits."""
    scores = ranking_scores(np.array([-np.inf, -30, 0, 17, 30, 60, 97, 98, 300, np.inf]))
    assert scores[[0, 2, -1]].tolist() == [0, 0.5, 1]
    assert (np.diff(scores.round(6)) > 0).all()


def test_log_odds_are_the_logit_of_the_mean_probability():
    """Over flips and scales; where the probabilities round to 1, the two passes of logits 30 and 40 remain apart."""
    maps = mean_log_odds([torch.tensor([2.0, 30.0, -60.0]), torch.tensor([-1.0, 40.0, -50.0])])
    mean = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(1))) / 2
    far = [30 + math.log(2), -50 - math.log(2)]  # 1 - p is about exp(-30) / 2, p about exp(-50) / 2
    np.testing.assert_allclose(maps, [math.log(mean / (1 - mean)), *far], rtol=1e-4)
    clip = torch.rand(1, 1, 20, 24)
    options = {"flip": True, "scales": (0.8, 1.0)}
    (both,) = Predictor(StandIn(), prepare, **options).score_maps([clip], [(20, 24)], log_odds=True)
    np.testing.assert_allclose(both.log_odds, np.log(both.probability / (1 - both.probability)), atol=1e-5)


def test_frames_of_every_kind_become_grey():
    eight = np.full((2, 4, 5), 51, np.uint8)
    (first, _) = as_grey_frames(eight)
    assert first.dtype == np.float32 and np.allclose(first, 0.2)
    (colour, _) = as_grey_frames(np.repeat(eight[..., None], 3, axis=-1))
    np.testing.assert_array_equal(colour, first)
    (alone,) = as_grey_frames(np.repeat(eight[0][..., None], 3, axis=-1))  # [H, W, 3] is one frame
    np.testing.assert_array_equal(alone, first)
    (deep,) = as_grey_frames(np.array([[1000, 3000]], np.uint16))
    assert deep.tolist() == [[pytest.approx(0.25 / 1.5, abs=0.01), pytest.approx(1.25 / 1.5, abs=0.01)]]
    for kind in (np.float16, np.float32, np.float64):
        (red,) = as_grey_frames(np.array([[[[1, 0, 0], [1, 1, 1]]]], kind))
        assert red.dtype == np.float32 and red.tolist() == [[pytest.approx(0.299), 1.0]]
    for kind in (np.uint16, np.int32, np.float32):  # the same rule for every kind of number
        raw = np.random.default_rng(0).integers(7000, 7500, (3, 8, 9)).astype(kind)
        np.testing.assert_allclose(list(as_grey_frames(raw)), [to_unit(f, sequence_range(raw)) for f in raw], atol=1e-5)
        np.testing.assert_allclose(list(as_grey_frames(raw, FRAME))[1].max(), 1)
    for channels in (1, 4):  # one frame, not several of 5 x 1 or 5 x 4 pixels
        (alone,) = as_grey_frames(np.full((4, 5, channels), 51, np.uint8))
        assert alone.shape == (4, 5) and np.allclose(alone, 0.2)
    for wrong in (np.zeros((1, 4, 4, 2), np.uint8), np.zeros((4, 4), bool), np.zeros((4, 4), complex)):
        with pytest.raises(InputError):
            list(as_grey_frames(wrong))


def test_wrong_input_is_said():
    with pytest.raises(InputError, match="no frames"):
        Predictor(StandIn(), prepare)([])
    with pytest.raises(InputError, match="one size"):
        stack_clip([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)])
    for options in ({"scales": ()}, {"scales": (0.0,)}, {"batch_size": 0}, {"threshold": 2}, {"tile": 32}):
        with pytest.raises(InputError):
            Predictor(StandIn(), prepare, **options)


@pytest.mark.parametrize("preset", ["grey", "local_contrast"])
def test_frames_are_prepared_as_training_validates_them(preset):
    model = StandIn(num_frames=2)
    clip, mask = frames(2, 64, 96), np.zeros((64, 96), bool)
    validated, _ = build_transform(preset, False, 64, model.in_channels)(clip, mask, None)
    tested, _ = eval_transform(model, {"preset": preset})(clip, mask, None)
    torch.testing.assert_close(tested, validated, rtol=0, atol=1e-6)
    prepare_frame = frame_preparation(eval_transform(model, {"preset": preset}))
    one_by_one = torch.stack([prepare_frame(frame) for frame in clip])
    torch.testing.assert_close(one_by_one, validated, rtol=0, atol=1e-6)


def test_results_print_in_a_line():
    """A notebook shows the last value of a cell: no arrays of hundreds of thousands of pixels."""
    detection = Detection(1, 30.25, 40.5, 29, 40, 3, 2, 5, 0.75, 0.9)
    assert repr(detection) == "Detection(x 30.2, y 40.5, 3 x 2 px, area 5, peak score 0.900)"
    scores, mask = np.zeros((2, 60, 80), np.float32), np.zeros((2, 60, 80), bool)
    assert repr(Prediction(scores, mask, [[detection], []])) == "Prediction(2 frames of 60 x 80 px, 1 detection)"
    assert repr(FrameResult(scores[0], scores[0], mask[0], [])) == "FrameResult(60 x 80 px, 0 detections)"
    assert repr(ScoreMaps(scores[0], None)) == "ScoreMaps(probability 60 x 80)"
