"""Dimmed datasets: the rule by hand, the SNR that comes out, and what stays as it was."""

import hashlib

import cv2
import numpy as np
import pytest

from istd.datasets import open_dataset
from istd.datasets.dim import contrast_factor, find_targets, main
from istd.datasets.rendering import NOISE
from istd.datasets.targets import read_targets
from istd.utils.errors import InputError
from istd.utils.images import read_grey, read_mask
from tests.reference.datasets_folders import write_image, write_lists, write_pairs, write_sequences

LEVEL, TARGET = 80, 200  # grey levels of a flat scene
PLACES = [(20, 12), (20, 40), (44, 26)]  # of its targets (row, column), whose surroundings do not meet


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Two flat sequences of 30 frames with three bright 3 x 3 targets each."""
    root = tmp_path_factory.mktemp("scenes") / "flat"
    frame, mask = np.full((64, 52), LEVEL, np.uint8), np.zeros((64, 52), np.uint8)
    for row, column in PLACES:
        frame[row - 1 : row + 2, column - 1 : column + 2] = TARGET
        mask[row - 1 : row + 2, column - 1 : column + 2] = 255
    for name in ("a", "b"):
        for index in range(30):
            write_image(root / "images" / name / f"{index:02d}.png", frame)
            write_image(root / "masks" / name / f"{index:02d}.png", mask)
    write_lists(root, train=["b"], test=["a"])
    return root


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.mark.parametrize(
    ("contrast", "clutter", "snr", "expected"),
    [
        (0.3, 0.0, 2.0, 0.2),  # 0.2 * 0.3 = 2 * 0.03
        (0.5, 0.1, 3.0, 0.225),  # 0.225 * 0.5 = 0.1125 = 3 * sqrt(0.0225^2 + 0.03^2) = 3 * 0.0375
        (0.06, 0.0, 2.0, 1.0),  # the noise alone makes it 2
        (0.03, 0.0, 2.0, 1.0),  # it would have to become brighter
        (0.2, 0.1, 2.0, 1.0),  # the clutter alone makes it 2, whatever the factor
        (0.1, 0.1, 2.0, 1.0),
        (-0.3, 0.0, 2.0, 1.0),
    ],
)
def test_contrast_factor_by_hand(contrast, clutter, snr, expected):
    assert contrast_factor(contrast, clutter, snr) == pytest.approx(expected)


def test_the_contrast_factor_solves_the_rule_and_is_at_most_1():
    random = np.random.default_rng(0)
    solved = 0
    for contrast, clutter, snr in random.uniform((-0.2, 0, 0.5), (0.8, 0.2, 5), (500, 3)):
        k = contrast_factor(contrast, clutter, snr)
        reached = k * contrast / np.hypot(k * clutter, NOISE)
        assert 0 < k <= 1 and reached <= snr * (1 + 1e-9)
        if k < 1:
            solved += 1
            assert reached == pytest.approx(snr)
    assert solved > 100


def test_targets_are_measured_one_by_one():
    """By hand: the surroundings are at 0.2 and 0.4, half of the pixels each, around a peak of 0.9 and one of 0.1."""
    grey = np.full((60, 60), 0.2)
    grey[:, ::2] = 0.4
    mask = np.zeros((60, 60), bool)
    mask[14:17, 20:22] = mask[40, 41] = True
    grey[15, 21], grey[40, 41] = 0.9, 0.1
    first, second = find_targets(grey, mask)
    assert (first.peak, first.box, first.centre) == ((15, 21), (20, 14, 2, 3, 6), (20.5, 15.0))
    assert (second.peak, second.box, second.centre) == ((40, 41), (41, 40, 1, 1, 1), (41.0, 40.0))
    assert (first.contrast, second.contrast) == (pytest.approx(0.6, abs=0.01), pytest.approx(-0.2, abs=0.01))
    assert first.clutter == pytest.approx(0.1, abs=0.01)


def test_the_targets_get_the_snr_asked_for(flat, tmp_path):
    """In a flat scene the noise alone is clutter: measured over 30 frames, contrast / deviation is what was asked."""
    main(["--dataset", str(flat), "--output", str(tmp_path / "dim"), "--snr", "2", "2"])
    frames = np.stack([read_grey(path) for path in sorted((tmp_path / "dim" / "images" / "a").iterdir())])
    background = frames[:, :8]
    contrast = np.mean([frames[:, row, column].mean() for row, column in PLACES]) - background.mean()
    assert background.std() == pytest.approx(NOISE, rel=0.02)
    assert contrast / background.std() == pytest.approx(2, rel=0.08)  # standard error: 1 / sqrt(90) / 2 = 5 %
    snr = [row.snr for row in read_targets(tmp_path / "dim")]
    assert len(snr) == 2 * 30 * 3
    assert np.mean(snr) == pytest.approx(2, rel=0.03) and np.std(snr) < 0.2


def test_large_targets_get_the_snr_asked_for_in_dark_scenes_too(tmp_path):
    """By hand, without clutter: contrast = 2 * 0.03. The mean level, 0.012 + a target of 0.8 in 13 % of the frame, is
    raised where it lies below 3 * 0.03."""
    for name, side in (("s", 3), ("t", 15)):
        frame, mask = np.full((42, 42), 3, np.uint8), np.zeros((42, 42), np.uint8)
        frame[14 : 14 + side, 14 : 14 + side], mask[14 : 14 + side, 14 : 14 + side] = 207, 1
        for index in range(8):
            write_image(tmp_path / "data" / "images" / name / f"{index}.png", frame)
            write_image(tmp_path / "data" / "masks" / name / f"{index}.png", mask)
    main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "dim"), "--snr", "2", "2"])
    rows = read_targets(tmp_path / "dim")
    for name, level in (("s", 0.09 - 0.06 * 9 / 42**2), ("t", 0.012 + (0.8 - 0.06) * 225 / 42**2)):
        frames = np.stack([read_grey(path) for path in sorted((tmp_path / "dim" / "images" / name).iterdir())])
        background = frames[:, :12]
        assert background.mean() == pytest.approx(level, abs=0.001)
        assert background.std() == pytest.approx(NOISE, rel=0.03)
        assert np.mean([row.snr for row in rows if row.sequence == name]) == pytest.approx(2, rel=0.05)
        target = frames[:, 14:17, 14:17].mean() - background.mean()
        assert target / NOISE == pytest.approx(2, abs=0.4)  # 72 pixels: a standard error of 0.12


def test_sequences_spread_over_the_range(flat, tmp_path):
    """Sequence 0 lies in the middle of the range, number 1 at (0.618 + 0.5) mod 1 = 0.118 of it."""
    main(["--dataset", str(flat), "--output", str(tmp_path / "dim"), "--snr", "1", "3"])
    rows = read_targets(tmp_path / "dim")
    means = [np.mean([row.snr for row in rows if row.sequence == name]) for name in "ab"]
    assert means == pytest.approx([2.0, 1 + 2 * 0.118], rel=0.03)


def test_masks_and_splits_are_kept(flat, tmp_path, capsys):
    main(["--dataset", str(flat), "--output", str(tmp_path / "dim")])
    assert "wrote 2 sequences with 180 targets" in capsys.readouterr().out
    index = open_dataset(tmp_path / "dim")
    assert {part: [s.name for s in sequences] for part, sequences in index.parts.items()} == {
        "train": ["b"],
        "test": ["a"],
    }
    for sequence in index.sequences:
        assert len(sequence.frames) == 30
        for frame in sequence.frames:
            np.testing.assert_array_equal(
                read_mask(frame.mask), read_mask(flat / "masks" / sequence.name / f"{frame.name}.png")
            )
    (row,) = [row for row in read_targets(tmp_path / "dim") if (row.sequence, row.frame, row.target) == ("a", "07", 1)]
    assert (row.x, row.y, row.x0, row.y0, row.width, row.height, row.area) == (40.0, 20.0, 39, 19, 3, 3, 9)


def test_frames_without_a_mask_stay_context(tmp_path):
    """And a split whose lists name frames keeps to these."""
    write_sequences(tmp_path / "data", ["a", "b"], frames=3)
    (tmp_path / "data" / "masks" / "b" / "1.png").unlink()
    write_lists(tmp_path / "data", train=["a/0", "a/2"], test=["b"])
    main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "dim")])
    before, after = (open_dataset(tmp_path / name) for name in ("data", "dim"))
    for index in (before, after):
        masked = {p: [(s.name, [f.mask is not None for f in s.frames]) for s in index.parts[p]] for p in index.parts}
        assert masked == {"train": [("a", [True, False, True])], "test": [("b", [True, False, True])]}


def test_same_seed_same_bytes_other_seed_other_noise(tmp_path):
    write_sequences(tmp_path / "data", ["a", "b"], frames=2)
    for name, seed in (("one", "3"), ("two", "3"), ("three", "4")):
        main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / name), "--seed", seed])
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    pictures = [cv2.imread(str(tmp_path / name / "images/a/0.png"), 0).astype(int) for name in ("one", "three")]
    assert (pictures[0] - pictures[1]).std() > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--snr", "3", "1"], "--snr 3.0 1.0: expected two numbers above 0"),
        (["--snr", "0", "1"], "--snr 0.0 1.0"),
        (["--snr", "nan", "1"], "--snr nan 1.0"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_senseless_options_are_refused(flat, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        main(["--dataset", str(flat), "--output", str(tmp_path / "dim"), *arguments])
    assert not (tmp_path / "dim").exists()


def test_sequences_of_one_name_are_refused_before_the_work(tmp_path):
    for part in ("trainval", "test"):
        write_sequences(tmp_path / "data" / part, ["1"], frames=1)
    with pytest.raises(InputError, match="folders trainval/images, test/images hold sequences of the same name: 1;"):
        main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "dim")])
    assert not (tmp_path / "dim").exists()


def test_a_mask_of_another_size_is_named(tmp_path):
    write_sequences(tmp_path / "data", ["1", "2"], frames=1)
    mask = next((tmp_path / "data" / "masks" / "1").iterdir())
    write_image(mask, np.zeros((3, 5), np.uint8))
    with pytest.raises(InputError, match=f"mask {mask} is 5 x 3, its image .* expected the same size"):
        main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "dim")])


def test_single_images_and_existing_folders_are_refused(flat, tmp_path):
    write_pairs(tmp_path / "data" / "images", tmp_path / "data" / "masks", ["a", "b"])
    with pytest.raises(InputError, match="data is a dataset of single images; give a dataset of sequences"):
        main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "dim")])
    before = digest(tmp_path / "data")
    with pytest.raises(InputError, match="is not an empty folder"):
        main(["--dataset", str(flat), "--output", str(tmp_path / "data")])
    assert digest(tmp_path / "data") == before and [path.name for path in tmp_path.iterdir()] == ["data"]
