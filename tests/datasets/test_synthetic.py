import csv
import hashlib
import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest

from istd.datasets import index as index_module
from istd.datasets import open_dataset
from istd.datasets.backgrounds import CLUTTERS, Texture, build_background
from istd.datasets.rendering import (
    MASK_PEAK_SHARE,
    NOISE,
    PATCH_RADIUS,
    render_sequence,
    target_profile,
)
from istd.datasets.snr import SNR_GUARD, SNR_RADIUS
from istd.datasets.synthetic import RenderConfig, ensure_demo, main, render_dataset
from istd.datasets.targets import TargetRow, read_frame_snr, read_targets, write_targets
from istd.utils.errors import InputError
from istd.utils.images import read_mask, read_pixels

SMALL = RenderConfig(sequences=4, frames=8, size=(64, 80), val_share=0.25)


def sequence(clutter="cloud", snr=5.0, seed=0, frames=20, shape=(128, 128), targets=(2, 3), speed=(0.5, 1.5)):
    settings = RenderConfig(1, frames, shape, (snr, snr), speed, targets, clutter)
    return render_sequence("s", settings, snr, np.random.default_rng(seed))


def inside(row: TargetRow, shape: tuple[int, int]) -> bool:
    return 1 < row.x < shape[1] - 2 and 1 < row.y < shape[0] - 2


def measured_snr(frame: np.ndarray, row: TargetRow, masks: np.ndarray) -> float | None:
    """(peak - local mean) / local standard deviation, plainly, from the picture; None beside other targets."""
    cy, cx = round(row.y), round(row.x)
    around = []
    for y in range(max(cy - SNR_RADIUS, 0), min(cy + SNR_RADIUS + 1, frame.shape[0])):
        for x in range(max(cx - SNR_RADIUS, 0), min(cx + SNR_RADIUS + 1, frame.shape[1])):
            if abs(y - cy) <= SNR_GUARD and abs(x - cx) <= SNR_GUARD:
                continue
            if masks[y, x]:
                return None
            if 0 < frame[y, x] < 1:  # dead and stuck pixels are the sensor's
                around.append(frame[y, x])
    return (frame[cy, cx] - np.mean(around)) / np.std(around)


@pytest.mark.parametrize("clutter", CLUTTERS)
@pytest.mark.parametrize("asked", [2.0, 4.0, 8.0])
def test_the_snr_asked_for_is_rendered_and_written(clutter, asked):
    differences, written = [], []
    for seed in range(4):
        rendered = sequence(clutter, asked, seed)
        for row in rendered.rows:
            if not inside(row, (128, 128)):
                continue
            number = int(row.frame)
            found = measured_snr(rendered.frames[number], row, rendered.masks[number])
            if found is not None:
                differences.append(found - row.snr)
                written.append(row.snr)
    assert len(written) > 50
    assert np.median(written) == pytest.approx(asked, abs=1e-3)
    assert np.mean(written) == pytest.approx(asked, rel=0.1)
    assert abs(np.mean(differences)) < 0.25, "the picture does not show what the table says"
    assert np.std(differences) < 1.3, "more than the noise of one pixel"


def test_a_sub_pixel_spot_has_its_centroid_where_it_was_put():
    for place in ((20.3, 30.8), (20.5, 31.0), (19.96, 30.04)):
        window, profile = target_profile(np.array(place), 0.7, 2.0, 1.0, (64, 64))
        rows, columns = (np.arange(part.start, part.stop) for part in window)
        assert profile.max() == 1
        assert (profile.sum(1) * rows).sum() / profile.sum() == pytest.approx(place[0], abs=0.01)
        assert (profile.sum(0) * columns).sum() / profile.sum() == pytest.approx(place[1], abs=0.01)


def test_a_spot_at_the_border_is_the_visible_part_of_the_whole_one():
    whole = target_profile(np.array((30.2, 30.4)), 0.3, 1.8, 0.9, (64, 64))[1]
    window, part = target_profile(np.array((0.2, 30.4)), 0.3, 1.8, 0.9, (64, 64))
    np.testing.assert_allclose(part, whole[PATCH_RADIUS:], atol=1e-6)
    assert window[0] == slice(0, PATCH_RADIUS + 1)
    assert target_profile(np.array((-30.0, 5.0)), 0, 1, 1, (64, 64)) is None


def test_masks_boxes_and_areas_belong_to_the_targets_energy():
    rendered = sequence(targets=(1, 1), seed=3)
    assert rendered.rows
    for row in rendered.rows:
        y, x = np.nonzero(rendered.masks[int(row.frame)])
        assert (row.x0, row.y0) == (x.min(), y.min())
        assert (row.width, row.height) == (np.ptp(x) + 1, np.ptp(y) + 1)
        assert row.area == len(x)
        if inside(row, (128, 128)):
            assert row.x == pytest.approx(x.mean(), abs=0.75)
            assert row.y == pytest.approx(y.mean(), abs=0.75)
    assert rendered.masks.any(axis=(1, 2)).sum() == len(rendered.rows)
    profile = target_profile(np.array((30.0, 30.0)), 0, 1.0, 1.0, (64, 64))[1]
    radius = np.sqrt((profile > MASK_PEAK_SHARE).sum() / np.pi)
    assert radius == pytest.approx(np.sqrt(2 * np.log(1 / MASK_PEAK_SHARE)), abs=0.15), "it falls to 0.3 at 1.55 px"


def tracks(rendered):
    by_target = defaultdict(dict)
    for row in rendered.rows:
        by_target[row.target][int(row.frame)] = np.array((row.y, row.x))
    return by_target.values()


def test_speeds_are_those_asked_for_and_paths_are_smooth():
    speeds = []
    for seed in range(6):
        for track in tracks(sequence(seed=seed, speed=(1.0, 2.0), frames=30)):
            first, last = min(track), max(track)
            if last - first >= 10:
                speeds.append(np.linalg.norm(track[last] - track[first]) / (last - first))
    assert len(speeds) >= 6
    assert min(speeds) > 0.85
    assert max(speeds) < 2.15


def test_targets_cross_the_border_appear_and_vanish():
    at_border = brief = 0
    for seed in range(12):
        rendered = sequence(seed=seed, frames=30, shape=(64, 64), speed=(1.0, 2.0))
        for track in tracks(rendered):
            ends = [track[min(track)] if min(track) > 0 else None, track[max(track)] if max(track) < 29 else None]
            for end in ends:
                if end is not None:
                    near = min(end.min(), 63 - end.max()) < 2.5
                    at_border += near
                    brief += not near
    assert at_border >= 5
    assert brief >= 3


def test_the_sensor_has_noise_columns_and_bad_pixels():
    rendered = sequence(targets=(0, 0), frames=40)
    steps = np.diff(rendered.frames, axis=0)
    assert np.median(np.abs(steps)) / 0.6745 / np.sqrt(2) == pytest.approx(NOISE, rel=0.15)
    dead = (rendered.frames == 0).all(axis=0).sum()
    stuck = (rendered.frames == 1).all(axis=0).sum()
    assert dead + stuck >= 2
    still = np.median(rendered.frames - np.median(rendered.frames, axis=(1, 2), keepdims=True), axis=0)
    columns = still.mean(axis=0)
    assert np.std(columns[1:] - columns[:-1]) > 0.004
    assert not rendered.rows
    assert not rendered.masks.any()


@pytest.mark.parametrize("exponent", [1.8, 3.0])
def test_the_texture_has_the_spectrum_asked_for(exponent):
    slopes = []
    for seed in range(4):
        texture = Texture((100, 100), exponent, np.random.default_rng(seed))
        power = np.abs(texture.spectrum) ** 2
        frequency = np.hypot(texture.frequency_y, texture.frequency_x)
        band = (frequency > 0.02) & (frequency < 0.4)
        slopes.append(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0])
    assert np.mean(slopes) == pytest.approx(-exponent, abs=0.1)


def test_the_texture_moves_by_whole_pixels_as_a_shift_and_between_them_smoothly():
    texture = Texture((40, 48), 3.0, np.random.default_rng(0))
    np.testing.assert_allclose(texture.window(2, 3)[:-2, :-3], texture.window(0, 0)[2:, 3:], atol=1e-4)
    texture.spectrum = np.zeros_like(texture.spectrum)
    texture.spectrum[0, 2] = texture.side**2 / 2  # one wave along x: a cosine of 2 periods
    wave = np.cos(2 * np.pi * 2 / texture.side * (np.arange(48) + 0.3))
    np.testing.assert_allclose(texture.window(7.7, 0.3), np.tile(wave, (40, 1)), atol=1e-5)


def test_sea_and_ground_have_a_horizon():
    for clutter in ("sea", "ground"):
        steps = []
        for seed in range(8):
            frame = build_background(clutter, (96, 96), np.random.default_rng(seed))(0, np.zeros(2))
            assert frame.shape == (96, 96)
            steps.append(frame[60:].std() / frame[:8].std())
        assert np.median(steps) > 1.2, "below the horizon there is more to see than above"


def digest(folder):
    """One digest of every file's name and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    render_dataset(tmp_path / "a", SMALL)
    render_dataset(tmp_path / "b", SMALL)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    arguments = ["--sequences", "4", "--frames", "8", "--size", "64", "80", "--seed", "1"]
    main(["--output", str(tmp_path / "c"), *arguments])
    first, other = (read_pixels(tmp_path / name / "images/seq_000/0000.png") for name in "ac")
    assert first.shape == other.shape == (64, 80)
    assert (first != other).mean() > 0.8


def test_the_folder_is_a_dataset(tmp_path):
    render_dataset(tmp_path / "new", SMALL)
    index = open_dataset(tmp_path / "new")
    assert [len(index.split(part)) for part in ("train", "test")] == [3, 1]
    assert "split (train.txt, val.txt)" in index.summary
    assert json.loads((tmp_path / "new/settings.json").read_text())["size"] == [64, 80]
    rows = read_targets(tmp_path / "new")
    masks = {(s.name, f.name): read_mask(f.mask) for s in index.sequences for f in s.frames}
    assert {(row.sequence, row.frame) for row in rows} == {key for key, mask in masks.items() if mask.any()}
    assert [path.name for path in tmp_path.iterdir()] == ["new"], "nothing unfinished is left"


def test_few_sequences_leave_one_for_validation(tmp_path):
    render_dataset(tmp_path / "new", RenderConfig(sequences=2, frames=1, size=(32, 32), val_share=0.1))
    assert len(open_dataset(tmp_path / "new").split("test")) == 1


def test_16_bit_output(tmp_path):
    arguments = ["--sequences", "1", "--frames", "1", "--size", "48", "48", "--bits", "16", "--clutter", "ground"]
    main(["--output", str(tmp_path / "deep"), *arguments])
    pixels = read_pixels(tmp_path / "deep/images/seq_000/0000.png")
    assert pixels.dtype == np.uint16
    assert len(np.unique(pixels)) > 1000


def test_sequences_spread_over_the_range_of_snr(tmp_path):
    render_dataset(tmp_path / "new", RenderConfig(sequences=6, frames=2, size=(48, 48), snr=(2, 8)))
    by_sequence = defaultdict(list)
    for row in read_targets(tmp_path / "new"):
        by_sequence[row.sequence].append(row.snr)
    middle = [np.median(values) for values in by_sequence.values()]
    assert min(middle) < 3.5
    assert max(middle) > 5


def test_frame_snr_is_that_of_the_dimmest_target(tmp_path):
    rows = [TargetRow("s", "0000", target, 1.0, 2.0, 1, 2, 1, 1, 1, snr) for target, snr in enumerate((4.0, 2.5))]
    write_targets(tmp_path / "targets.csv", [*rows, rows[0]._replace(frame="0001")])
    assert read_targets(tmp_path)[1] == rows[1]
    assert read_frame_snr(tmp_path) == {("s", "0000"): 2.5, ("s", "0001"): 4.0}


def test_a_missing_or_foreign_table_is_said(tmp_path):
    with pytest.raises(InputError, match=r"no targets\.csv"):
        read_frame_snr(tmp_path)
    with open(tmp_path / "targets.csv", "w", newline="") as file:
        csv.writer(file).writerow(["frame", "class"])
    with pytest.raises(InputError, match="expected sequence, frame"):
        read_frame_snr(tmp_path)


@pytest.mark.parametrize("cells", ["s,0,0,1.0,,1,2,1,1,1,3.0", "s,0,0,1.0", "s,0,0,1.0,2.0,1,2,1,1,1,3.0,4.0"])
def test_a_row_that_lacks_a_number_is_said(cells, tmp_path):
    write_targets(tmp_path / "targets.csv", [])
    with open(tmp_path / "targets.csv", "a") as file:
        file.write(f"\ns,0,0,1.0,2.0,1,2,1,1,1,3.0\n{cells}\n")
    with pytest.raises(InputError, match=rf"line 4 of .*targets\.csv is {cells}; expected two names, then a number"):
        read_targets(tmp_path)


def test_help_explains_every_option_and_its_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.partition("\n\nexamples:")[0].split("\n  --")
    options = {text.split()[0]: text for text in listed}
    for name, default in asdict(RenderConfig()).items():
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        assert re.search(rf"[a-z]; default {shown}$", options[name]), options[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--snr", "4", "2"], "--snr 4.0 2.0"),
        (["--snr", "0", "2"], "--snr 0.0 2.0"),
        (["--size", "16", "64"], "32 x 32"),
        (["--sequences", "0"], "at least 1 sequence"),
        (["--val_share", "1.5"], "--val_share 1.5"),
    ],
)
def test_settings_without_sense_are_said(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        main(["--output", str(tmp_path / "new"), *arguments])
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        render_dataset(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_is_rendered_on_first_use_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ISTD_DATA_ROOT", raising=False)
    monkeypatch.setitem(index_module.DATASET_PATHS, "demo", str(tmp_path / "data" / "demo"))
    monkeypatch.setattr("istd.datasets.synthetic.DEMO", SMALL)
    index = open_dataset("demo")
    assert "rendering 4 sequences of 8 frames" in capsys.readouterr().out
    assert index.root == tmp_path / "data" / "demo"
    before = digest(index.root)
    open_dataset("demo", tmp_path / "a_data_root_without_demo")
    assert capsys.readouterr().out == ""
    assert digest(index.root) == before


def test_two_processes_may_render_the_demo_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("istd.datasets.synthetic.DEMO", SMALL)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ensure_demo, [tmp_path / "demo"] * 2))
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (tmp_path / "demo" / "train.txt").is_file()
