"""Tracks in inference and predict: files, --min_track, resumed runs, the report, and curves over the threshold."""

import csv
import json
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch

from istd.datasets.targets import TargetRow, write_targets
from istd.test_script import evaluate, inference, predict, track_curves
from istd.test_script.map_sources import MappedFrame
from istd.test_script.media.overlay import TRAIL, TRAIL_FRAMES, Trails, draw_overlay
from istd.test_script.predictor import FrameResult, Predictor, ScoreMaps
from istd.test_script.predictor.detections import find_detections
from istd.test_script.results.frame_set import FrameRef
from istd.test_script.results.stream_tracks import TrackFilter, erase_regions
from istd.test_script.track_curves import link_levels
from istd.utils import plots, tracking
from istd.utils.images import read_mask
from istd.utils.tracking import MAX_GAP
from tests.reference.local_contrast import LocalContrast
from tests.reference.results import result_bytes

HEIGHT, WIDTH, FRAMES = 48, 64, 7
FLASH = (4, 50)  # a false alarm in frame 3 alone (row, column)
HIDDEN = 5  # the frame in which the target cannot be seen


def draw(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def target_corner(index):
    return 30, 5 + 2 * index


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A sequence with one target that moves two pixels a frame and is dark in one frame, and one with noise only."""
    root = tmp_path_factory.mktemp("data") / "MOVING"
    rows = []
    for index in range(FRAMES):
        frame, mask = np.full((HEIGHT, WIDTH), 80, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
        top, left = target_corner(index)
        mask[top : top + 3, left : left + 3] = 255
        frame[mask > 0] = 220 if index != HIDDEN else 80
        if index == 3:
            frame[FLASH[0] : FLASH[0] + 2, FLASH[1] : FLASH[1] + 2] = 220
        draw(root / "images" / "moving" / f"{index}.png", frame)
        draw(root / "masks" / "moving" / f"{index}.png", mask)
        rows.append(TargetRow("moving", str(index), 0, left + 1, top + 1, left, top, 3, 3, 9, 5.0))
        draw(root / "images" / "other" / f"{index}.png", np.full((HEIGHT, WIDTH), 80, np.uint8))
        draw(root / "masks" / "other" / f"{index}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    write_targets(root / "targets.csv", rows)
    (root / "train.txt").write_text("")
    (root / "val.txt").write_text("moving\nother\n")
    torch.save({}, root / "any.pth")
    return root


def from_checkpoint(path, device, image_size, code, **options):
    return Predictor(LocalContrast(), lambda frame: torch.from_numpy(frame)[None], **options)


@contextmanager
def no_axes(path):
    """Instead of matplotlib's, whose pictures take the most time."""
    path.touch()
    yield MagicMock()


def run_inference(dataset, output, *more):
    """Inference with the stand-in network, whatever the checkpoint, and without plots."""
    words = ["--model_path", dataset / "any.pth", "--dataset", dataset, "--output_dir", output, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
        patch.setattr(inference, "load_recipe", lambda *_, **__: (LocalContrast(), {}))
        inference.main([str(word) for word in words])
    return output


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Output folders by --min_track: 1, with saved maps, and 3."""
    folder = tmp_path_factory.mktemp("runs")
    plain = run_inference(dataset, folder / "1", "--save_maps")
    return {1: plain, 3: run_inference(dataset, folder / "3", "--min_track", 3)}


def table(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


EXPECTED = [(str(index), "1", str(float(6 + 2 * index)), "31.0") for index in range(FRAMES) if index != HIDDEN]


def test_inference_links_measures_and_keeps_everything_by_default(runs):
    rows = [(row["frame"], row["track"], row["x"], row["y"]) for row in table(runs[1] / "tracks.csv")]
    assert rows == [*EXPECTED[:3], ("3", "2", "50.5", "4.5"), *EXPECTED[3:]]
    saved = json.loads((runs[1] / "metrics.json").read_text())
    tracks = {row["min_track"]: row for row in saved["tracks"]}
    assert list(tracks) == [1, 2, 3, 5]
    assert all((row["intervals"]["unit"], row["intervals"]["units"]) == ("sequences", 2) for row in saved["tracks"])
    pixels = 2 * FRAMES * HEIGHT * WIDTH
    expected = {
        "pd": 6 / 7,
        "fa": 4 / pixels,
        "found_rate": 1,
        "mean_delay": 0,
        "false_track_rate": 1 / 14,
        "tracks": 2,
    }
    assert {name: tracks[1][name] for name in expected} == expected
    assert {name: tracks[2][name] for name in expected} == expected | {"fa": 0, "false_track_rate": 0, "tracks": 1}
    standard = saved["protocols"]["standard"]
    assert (tracks[1]["pd"], tracks[1]["fa"]) == (standard["pd"], standard["fa"])


def test_short_tracks_are_dropped_from_all_files_and_resumed_runs_agree(dataset, runs, tmp_path, monkeypatch):
    for name in ("tracks.csv", "detections.csv"):
        assert [row["frame"] for row in table(runs[3] / name)] == [frame for frame, *_ in EXPECTED]
    coco = json.loads((runs[3] / "detections_coco.json").read_text())
    assert len(coco) == len(EXPECTED)
    mask = read_mask(runs[3] / "masks" / "moving" / "3.png")
    assert mask[31, 12] and not mask[: FLASH[0] + 4].any()
    assert json.loads((runs[3] / "metrics.json").read_text())["protocols"]["standard"]["fa"] > 0

    score_maps, calls = Predictor.score_maps, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == FRAMES + 3:  # in the second sequence
            raise KeyboardInterrupt
        return score_maps(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "score_maps", interrupted)
    options = ("--min_track", 3, "--batch_size", 1)
    with pytest.raises(KeyboardInterrupt):
        run_inference(dataset, tmp_path, *options)
    for _ in range(2):  # a finished run that is resumed does not change either
        run_inference(dataset, tmp_path, *options, "--resume")
        for file in (runs[3]).rglob("*"):
            if file.is_file():
                assert result_bytes(file) == result_bytes(tmp_path / file.relative_to(runs[3]))


def test_the_report_shows_tracks_and_paths(runs):
    page = (runs[3] / "report.html").read_text(encoding="utf-8")
    assert "<h2>Tracks</h2>" in page and "of tracks of at least 5" in page
    assert page.count('<polyline class="targets"') == page.count('<polyline class="tracks"') == 1
    assert 'class="tracks" points="6.5,31.5 8.5,31.5' in page.replace("\n", "")
    assert "<b>moving</b>: 1 of 1 target found, 0 false tracks" in page


def test_a_run_with_frames_of_too_many_detections_keeps_them_and_says_so(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "MAX_POINTS", 0)
    run_inference(dataset, tmp_path, "--min_track", 3, "--report_pictures", 0)
    assert "too many detections to link in 6 frames; they are in no track, and kept" in capsys.readouterr().out
    assert [row["track"] for row in table(tmp_path / "tracks.csv")] == ["0"] * (len(EXPECTED) + 1)


@pytest.mark.parametrize("shortest", [1, 3])
def test_evaluate_makes_of_saved_maps_all_that_inference_made_of_the_network(
    shortest, dataset, runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
    words = ["--predictions", runs[1] / "probabilities", "--dataset", dataset, "--output_dir", tmp_path]
    words += ["--output", tmp_path / "again.json"]
    evaluate.main([str(word) for word in [*words, "--min_track", shortest]])
    names = ("tracks.csv", "detections.csv", "detections_coco.json", "per_image.csv", "per_sequence.csv", "masks")
    for name in names:
        files = [runs[shortest] / name] if "." in name else sorted((runs[shortest] / name).rglob("*.png"))
        assert files
        for file in files:
            other = tmp_path / file.relative_to(runs[shortest])
            assert file.read_bytes() == other.read_bytes()
    saved, network = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, runs[shortest]))
    assert saved["protocols"] == network["protocols"] and saved["tracks"] == network["tracks"]
    assert json.loads((tmp_path / "again.json").read_text()) == saved["protocols"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 on MOVING" in page and "saved maps" in page and page.count('<polyline class="targets"') == 1


def test_true_targets_are_linked_at_the_speed_of_the_detections(tmp_path, monkeypatch):
    """One target moves 10 px a frame, and is found from the second frame on."""
    monkeypatch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
    masks = np.zeros((5, 12, 64), bool)
    for index, mask in enumerate(masks):
        mask[4:7, 5 + 10 * index : 8 + 10 * index] = True
        draw(tmp_path / "masks" / "fast" / f"{index}.png", mask.astype(np.uint8) * 255)
        draw(tmp_path / "maps" / "fast" / f"{index}.png", mask.astype(np.uint8) * (200 if index else 90))
    words = ["--predictions", tmp_path / "maps", "--masks", tmp_path / "masks", "--output_dir", tmp_path / "out"]
    evaluate.main([*map(str, words), "--track_speed", "10"])
    counts = json.loads((tmp_path / "out" / "metrics.json").read_text())["tracks"][0]
    assert {name: counts[name] for name in ("targets", "found", "delay", "tracks")} == {
        "targets": 1, "found": 1, "delay": 1, "tracks": 1,
    }  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('<polyline class="targets"') == 1

    frames = [FrameRef("fast", str(number), number, Path("m"), None, number, "") for number in range(5)]
    maps = [MappedFrame(item, ScoreMaps(np.float32(mask), None), mask) for item, mask in enumerate(masks)]
    levels = link_levels(lambda _: iter(maps), list(range(5)), frames, None, 10.0)
    assert [frame.targets.tolist() for frame in levels[0]] == [[1]] * 5


def test_predict_drops_the_same_detections_as_inference(dataset, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    source = dataset / "images" / "moving"
    for shortest, measured in runs.items():
        words = ["--model_path", "any.pth", "--input", source, "--output_dir", tmp_path / f"predict{shortest}"]
        predict.main([*map(str, words), "--min_track", str(shortest)])
        for name in ("tracks.csv", "detections.csv"):
            ours = (tmp_path / f"predict{shortest}" / name).read_bytes()
            assert ours == (measured / name).read_bytes()
        masks = sorted((tmp_path / f"predict{shortest}" / "masks" / "moving").iterdir())
        assert len(masks) == FRAMES
        for file in masks:
            assert file.read_bytes() == (measured / "masks" / "moving" / file.name).read_bytes()
    saved = json.loads((tmp_path / "predict3" / "detections.json").read_text())
    assert saved["min_track"] == 3 and len(saved["detections"]) == len(EXPECTED)


def results(*frames):
    """Results whose 1 x 1 detections lie at these places (row, column)."""
    for places in frames:
        mask = np.zeros((40, 200), bool)
        for place in places:
            mask[place] = True
        yield FrameResult(
            mask.astype(np.float32), mask.astype(np.float32), mask, find_detections(mask, mask.astype(float))
        )


def test_a_frame_is_held_until_its_tracks_are_decided():
    """The target becomes long enough in frame 2; a false alarm of frame 3 has ended four frames later."""
    frames = [[(10, 10 + index)] for index in range(12)]
    frames[3] = [(10, 13), (30, 150)]
    tracker, released = TrackFilter(3), []
    for index, result in enumerate(results(*frames)):
        released.append([tracked.name for tracked in tracker.add(str(index), result)])
    assert released[:8] == [[], [], ["0", "1", "2"], [], [], [], [], ["3", "4", "5", "6", "7"]]
    assert released[8:] == [["8"], ["9"], ["10"], ["11"]] and not list(tracker.finish())
    assert MAX_GAP + 1 == 7 - 3

    tracker = TrackFilter(3)
    kept = [frame for index, result in enumerate(results(*frames[:5])) for frame in tracker.add(str(index), result)]
    kept += tracker.finish()
    assert [frame.name for frame in kept] == list("01234") and [frame.tracks for frame in kept] == [[1]] * 5
    assert kept[3].result.mask.sum() == 1 and [detection.id for detection in kept[3].result.detections] == [1]


def test_skipped_frames_count_as_time():
    """A target at rest with a false alarm in the first of four frames; a longer gap ends its track."""
    for gap, tracks in ((MAX_GAP, [[1]] * 4), (MAX_GAP + 1, [[]] * 4)):
        tracker, kept = TrackFilter(4), []
        for index, result in enumerate(results([(10, 10), (30, 150)], *[[(10, 10)]] * 3)):
            kept += tracker.add(str(index), result)
            tracker.skip(gap)
        kept += tracker.finish()
        assert [frame.name for frame in kept] == list("0123") and [frame.tracks for frame in kept] == tracks


def test_a_long_stream_of_false_alarms_is_held_in_bounded_memory():
    random = np.random.default_rng(1)
    tracker, released = TrackFilter(3), 0
    for index in range(60):
        places = list(map(tuple, random.integers((40, 200), size=(2, 2)).tolist()))
        released += len(list(tracker.add(str(index), next(results(places)))))
        assert index + 1 - released <= 2 * (MAX_GAP + 1) and len(tracker._known) < 60


def test_regions_are_erased_one_by_one():
    mask = np.zeros((9, 9), bool)
    mask[1, 1:4] = mask[5:7, 5] = mask[8, 0] = True
    first, _, third = find_detections(mask, mask.astype(float))
    np.testing.assert_array_equal(np.argwhere(erase_regions(mask, [first, third])), [[5, 5], [6, 5]])
    np.testing.assert_array_equal(erase_regions(mask, []), mask)


def test_detections_of_a_frame_with_too_many_are_kept(monkeypatch):
    """They are in no track: nobody knows how long it would be."""
    monkeypatch.setattr(tracking, "MAX_POINTS", 2)
    tracker = TrackFilter(2)
    frames = [[(1, 2), (1, 6), (1, 10)], [(1, 2)], [(30, 2)]]
    kept = [frame for index, result in enumerate(results(*frames)) for frame in tracker.add(str(index), result)]
    kept += tracker.finish()
    assert [frame.tracks for frame in kept] == [[0, 0, 0], [], []]
    assert [frame.result.mask.sum() for frame in kept] == [3, 0, 0]


def test_trails_are_drawn_and_end():
    trails, frame = Trails(), next(results([(10, 10)]))
    assert trails.add(frame.detections, [1]) == []
    (path,) = trails.add(next(results([(10, 14)])).detections, [1])
    assert path.tolist() == [[10, 10], [14, 10]]
    picture = draw_overlay(frame.frame * 0, frame.mask & False, [], [path])
    assert picture.shape == (120, 600, 3)  # 3 times as large: from (31.5, 31.5) to (43.5, 31.5), rounded to even
    assert np.abs(picture[32, 33:43].astype(int) - TRAIL).max() < 40 and not picture[:, :30].any()  # anti-aliased
    for _ in range(TRAIL_FRAMES - 2):
        assert len(trails.add([], [])) == 1
    assert trails.add([], []) == []


def test_curves_over_the_threshold_from_saved_maps(dataset, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(track_curves, "THRESHOLDS", np.array([0.1, 0.5, 0.99]))
    words = ["--predictions", runs[1] / "probabilities", "--dataset", dataset, "--min_track", 3]
    track_curves.main([str(word) for word in [*words, "--output", tmp_path / "curves.png"]])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    fa = f"{4e6 / (2 * FRAMES * HEIGHT * WIDTH):.2f}"
    assert ["80", fa, "0.00"] in printed and ["80", f"{1000 / 14:.2f}", "0.00"] in printed
    assert not any(line[0] == "90" for line in printed)
    rows = table(tmp_path / "curves.csv")
    assert len(rows) == 2 * len(track_curves.THRESHOLDS)
    (half,) = [row for row in rows if (row["min_track"], row["threshold"]) == ("3", "0.5")]
    assert (half["pd"], half["fa"], half["found_rate"]) == (str(6 / 7), "0.0", "1.0")
    assert cv2.imread(str(tmp_path / "curves.png")) is not None


def test_false_alarms_of_track_curves_count_the_pixels_of_every_frame():
    frames = [FrameRef("s", str(number), number, Path("m"), None, number, "") for number in range(2)]
    blank = [np.zeros(shape, bool) for shape in ((10, 10), (10, 20))]  # frames of two sizes

    def maps(shards):
        return (MappedFrame(item, ScoreMaps(blank[item] * np.float32(1), None), blank[item]) for item in shards[0])

    levels = link_levels(maps, [0, 1], frames, None, 2.0)
    assert [[frame.pixels for frame in level] for level in levels] == [[100, 200]] * len(track_curves.THRESHOLDS)
