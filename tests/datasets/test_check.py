import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from istd.datasets import Frame, Sequence, open_dataset
from istd.datasets.check import check_dataset, find_gaps, main, measure_targets
from istd.datasets.synthetic import RenderConfig, render_dataset
from istd.utils.drawing import TRUTH
from istd.utils.errors import InputError
from tests.reference.datasets_folders import (
    REPOSITORY,
    frame_and_mask,
    write_image,
    write_lists,
    write_pairs,
    write_sequences,
)

REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def images(tmp_path):
    """A dataset of four images without faults."""
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path, train=NAMES[:2], test=NAMES[2:])
    return tmp_path


def problems(root):
    return check_dataset(open_dataset(root))[0]


def test_a_sound_dataset_passes(images, capsys):
    assert main(["--dataset", str(images)]) == 0
    said = capsys.readouterr().out
    assert "train 2 images, test 2 images" in said
    assert "sizes: 40 x 32 (4)" in said
    assert "targets: 4 in 4 frames, at most 1 per frame" in said
    assert "area in px: median 9, 90% from 9 to 9, all from 9 to 9" in said
    assert "no problems found" in said


def test_rendered_sequences_pass(tmp_path, capsys):
    render_dataset(tmp_path / "new", RenderConfig(sequences=3, frames=6, size=(48, 64)))
    assert main(["--dataset", str(tmp_path / "new")]) == 0
    assert "3 sequences, 18 frames" in capsys.readouterr().out


def test_unreadable_files(images, capsys):
    (images / "images" / "a.png").write_bytes(b"broken")
    (images / "masks" / "b.png").write_bytes(b"")
    assert len(problems(images)["unreadable files"]) == 2
    assert main(["--dataset", str(images)]) == 1
    assert "PROBLEM: unreadable files (2)" in capsys.readouterr().out


def test_an_image_without_mask_and_a_mask_without_image(images):
    (images / "masks" / "a.png").rename(images / "masks" / "z.png")
    found = problems(images)
    assert found == {
        "images without mask": [str(images / "images" / "a.png")],
        "masks without image": [str(images / "masks" / "z.png")],
    }


def test_masks_of_sequences_without_images(tmp_path):
    write_sequences(tmp_path, ["a", "b"])
    write_image(tmp_path / "masks" / "c" / "0.png", frame_and_mask(0)[1])
    write_image(tmp_path / "masks" / "b" / "9.png", frame_and_mask(0)[1])
    assert [Path(path).name for path in problems(tmp_path)["masks without image"]] == ["9.png", "0.png"]


def test_a_mask_of_another_size_is_named_with_both_sizes(images):
    write_image(images / "masks" / "c.png", np.ones((30, 40), np.uint8))
    (text,) = problems(images)["masks that differ in size from their image"]
    assert "c.png is 40 x 30" in text
    assert "40 x 32" in text


def test_empty_masks_are_wrong_for_images_and_noted_for_sequences(images, tmp_path):
    write_image(images / "masks" / "c.png", np.zeros((32, 40), np.uint8))
    assert problems(images) == {"empty masks": [str(images / "masks" / "c.png")]}
    write_sequences(tmp_path / "sequences", ["a", "b"])
    write_image(tmp_path / "sequences" / "masks" / "a" / "1.png", np.zeros((32, 40), np.uint8))
    found, notes, _ = check_dataset(open_dataset(tmp_path / "sequences"))
    assert not found
    assert len(notes["empty masks"]) == 1


def test_duplicated_frames_under_other_names_and_formats(images):
    frame = cv2.imread(str(images / "images" / "a.png"), cv2.IMREAD_UNCHANGED)
    write_image(images / "images" / "d.png", frame)
    assert problems(images) == {"duplicated frames": [f"{images}/images/a.png = {images}/images/d.png"]}


def test_split_entries_that_do_not_exist_and_overlap(images):
    write_lists(images, train=["a", "b", "nowhere"], test=["c", "b", "d"])
    assert problems(images) == {
        "entries of the train list without a file": ["nowhere"],
        "frames in train and in another split": [f"{images / 'images' / 'b.png'} (train and test)"],
    }


def test_a_dataset_without_any_mask_is_wrong(tmp_path):
    write_sequences(tmp_path, ["a", "b"], frames=1)
    for path in (tmp_path / "masks").rglob("*.png"):
        path.unlink()
    assert [Path(path).name for path in problems(tmp_path)["images without mask"]] == ["0.png", "0.png"]


def test_parts_without_targets_are_wrong(tmp_path):
    write_sequences(tmp_path, ["a", "b"], frames=2)
    write_lists(tmp_path, train=["a"], test=["b"])
    for name in ("0", "1"):
        write_image(tmp_path / "masks" / "b" / f"{name}.png", np.zeros((32, 40), np.uint8))
    assert problems(tmp_path) == {"empty parts": ["test has no targets (split: train.txt, test.txt)"]}
    for name in ("0", "1"):
        write_image(tmp_path / "masks" / "a" / f"{name}.png", np.zeros((32, 40), np.uint8))
    found = problems(tmp_path)
    assert len(found["empty parts"]) == 2 and len(found["empty masks"]) == 4


def test_preview_outlines_the_targets(images, capsys):
    assert main(["--dataset", str(images), "--preview", str(images / "sheets" / "out.png")]) == 0
    sheet = cv2.imread(str(images / "sheets" / "out.png"))
    line = (sheet == TRUTH[::-1]).all(axis=2)
    assert line.sum() >= 4 * 4 * 3 * 6, "a ring around each of four enlarged 3 x 3 targets"
    assert "preview:" in capsys.readouterr().out


def test_published_facts_of_a_known_dataset_are_shown(tmp_path, capsys):
    write_sequences(tmp_path / "IRDST", ["2", "44"], frames=1)
    assert main(["--dataset", "IRDST", "--data_root", str(tmp_path)]) == 1, "most of its sequences are not there"
    said = capsys.readouterr().out
    assert "published preprocessing: preset sgmp_unet, size 320" in said
    assert "SGMP-UNet (2025 release) IoU 60.8, nIoU 59.28, Pd 98.68, Fa 17.83 (protocol sgmp-2025)" in said


def test_a_preview_that_is_no_picture_is_refused_before_the_work(images):
    with pytest.raises(InputError, match=r"expected a file name that ends in \.png"):
        main(["--dataset", str(images), "--preview", "sheet.pdf"])


def test_statistics_by_hand():
    grey, mask = np.full((40, 40), 0.2, np.float32), np.zeros((40, 40), bool)
    grey[::2] = 0.4  # background 0.3 on average, deviation 0.1
    grey[18:24, 8:15] = 1.0  # the blur around the target is neither target nor background
    mask[20:22, 10:13] = True
    grey[mask] = 0.8
    mask[30, 30] = True
    grey[30, 30] = 0.1
    big, small = measure_targets(grey, mask)
    assert (big.area, small.area) == (6, 1)
    assert big.contrast == pytest.approx(0.5, abs=0.01)
    assert big.snr == pytest.approx(5, abs=0.1)
    assert small.contrast == pytest.approx(-0.2, abs=0.01)
    assert small.snr == pytest.approx(2, abs=0.1)


def test_statistics_without_background_or_clutter():
    (full,) = measure_targets(np.ones((4, 4)), np.ones((4, 4), bool))
    assert (full.contrast, full.snr) == (None, None)
    mask = np.zeros((30, 30), bool)
    mask[15, 15] = True
    (flat,) = measure_targets(mask * 0.5, mask)
    assert (flat.contrast, flat.snr) == (0.5, None)
    assert measure_targets(np.ones((4, 4)), np.zeros((4, 4), bool)) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="real data not present")
@pytest.mark.parametrize(
    ("name", "images", "targets"), [("NUDT-SIRST", 1327, 1863), ("NUAA-SIRST", 427, 533), ("HALMSTAD-IR", 1200, 1200)]
)
def test_real_datasets_are_sound(name, images, targets, capsys):
    assert main(["--dataset", name, "--data_root", str(REAL)]) == 0
    assert f"targets: {targets} in {images} frames" in capsys.readouterr().out


def test_masks_that_look_wrong_and_empty_parts(images, capsys):
    inverted = 255 - cv2.imread(str(images / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    write_image(images / "masks" / "a.png", inverted)
    blurred = cv2.GaussianBlur(cv2.imread(str(images / "masks" / "b.png"), cv2.IMREAD_UNCHANGED), (5, 5), 0)
    write_image(images / "masks" / "b.png", blurred)
    write_lists(images, train=NAMES, test=[])
    found, notes, _ = check_dataset(open_dataset(images))
    assert found == {
        "masks that make most of the image target (inverted?)": [f"{images / 'masks' / 'a.png'} (99%)"],
        "empty parts": ["test has no frames (split: train.txt, test.txt)"],
    }
    (text,) = notes["masks of more than two levels"]
    assert text.startswith(f"{images / 'masks' / 'b.png'} (")
    assert text.endswith("levels, above half of the maximum is target)")


def test_all_problems_go_to_a_file_and_the_truth_to_another(images, tmp_path, capsys):
    for name in NAMES:
        write_image(images / "masks" / f"{name}.png", np.zeros((32, 40), np.uint8))
    write_lists(images, train=[*"abefghij"], test=["c", "d"])
    assert (
        main(["--dataset", str(images), "--problems", str(tmp_path / "all.txt"), "--coco", str(tmp_path / "t.json")])
        == 1
    )
    assert "... and 1 more (--problems FILE lists all)" in capsys.readouterr().out
    lines = (tmp_path / "all.txt").read_text().splitlines()
    assert lines[:2] == ["PROBLEM: empty masks (4)", f"    {images / 'masks' / 'a.png'}"]
    assert "PROBLEM: entries of the train list without a file (6)" in lines and "    j" in lines
    assert len(json.loads((tmp_path / "t.json").read_text())["images"]) == 4


def test_the_ground_truth_can_be_that_of_a_part(images, tmp_path):
    assert main(["--dataset", str(images), "--coco", str(tmp_path / "t.json"), "--split", "test"]) == 0
    truth = json.loads((tmp_path / "t.json").read_text())
    assert [Path(image["file_name"]).stem for image in truth["images"]] == ["c", "d"]
    assert {row["image_id"] for row in truth["annotations"]} <= {image["id"] for image in truth["images"]}


def test_the_ids_of_a_part_are_those_of_all_images_without_unusable_files(images):
    """A damaged image before and in the part: results of inference count it too."""
    for name in ("a", "c"):
        (images / "images" / f"{name}.png").write_bytes(b"broken")
    file = images / "t.json"
    for options, expected in (((), {2: "images/b.png", 4: "images/d.png"}), (("--split", "test"), {4: "images/d.png"})):
        assert main(["--dataset", str(images), "--coco", str(file), "--skip_unusable", *options]) == 0
        assert {image["id"]: image["file_name"] for image in json.loads(file.read_text())["images"]} == expected


def test_what_is_skipped_is_no_problem(images, capsys):
    write_image(images / "masks" / "c.png", np.ones((30, 40), np.uint8))
    assert main(["--dataset", str(images)]) == 1
    assert main(["--dataset", str(images), "--skip_unusable"]) == 0
    assert "LEFT OUT by --skip_unusable: 1" in capsys.readouterr().out


def test_frames_of_a_sequence_that_do_not_fit_together(tmp_path):
    write_sequences(tmp_path, ["a", "b"], frames=6)
    images, masks = tmp_path / "images" / "b", tmp_path / "masks" / "b"
    write_image(images / "4.png", np.zeros((30, 40), np.uint8))
    write_image(masks / "4.png", np.ones((30, 40), np.uint8) * (np.arange(40) == 3))
    write_image(images / "5.png", frame_and_mask(5)[0].astype(np.uint16) * 256)
    write_image(images / "1.png", frame_and_mask(77)[0])
    write_image(images / "2.png", frame_and_mask(77)[0])
    found, notes, _ = check_dataset(open_dataset(tmp_path))
    assert found["frames of other sizes in a sequence (of use to single-frame networks only)"] == [
        f"frame {images / '4.png'} is 40 x 30, most of its sequence 40 x 32; expected one size"
    ]
    assert found["sequences of frames of several depths"] == ["b: uint16, uint8"]
    assert notes["frames that repeat another of their sequence"] == [f"{images / '1.png'} = {images / '2.png'}"]


def test_gaps_between_frames(tmp_path):
    def gaps(*names):
        return find_gaps(Sequence("s", tuple(Frame(name, tmp_path, None) for name in names)))

    assert gaps("s1(1)", "s1(2)", "s1(5)", "s1(6)") == ["s: s1(2) to s1(5)"]
    assert gaps("0", "3", "6", "9") == [], "every third frame"
    assert gaps("17.02", "17.09", "18.11") == gaps("a", "b") == gaps("0") == [], "times, or no numbers"
