"""Masks of every kind, and what of a dataset can be used."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from istd.datasets import ClipDataset, open_dataset
from istd.datasets.clips import data_lines
from istd.datasets.usable import mask_lines, usable_index
from istd.test_script import inference
from istd.utils.errors import InputError
from istd.utils.image_headers import read_size
from istd.utils.images import inspect_mask, mask_of, read_mask, read_pixels
from tests.datasets.test_clips import plain
from tests.reference.datasets_folders import REPOSITORY, write_image, write_lists, write_pairs, write_sequences
from tests.reference.local_contrast import LocalContrast

REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
SHAPE = np.zeros((24, 32), bool)
SHAPE[10:13, 14:17] = True
NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (10, 200), (1, 2), (0, 65535)])
def test_two_levels_are_background_and_target(levels):
    low, high = levels
    image = np.where(SHAPE, high, low).astype(np.uint16 if high > 255 else np.uint8)
    np.testing.assert_array_equal(mask_of(image), SHAPE)


def test_more_levels_are_cut_at_half_of_the_maximum(tmp_path):
    blurred = cv2.GaussianBlur(SHAPE * np.uint8(255), (5, 5), 0)
    assert (blurred > 0).sum() == 49
    np.testing.assert_array_equal(mask_of(blurred), blurred > blurred.max() / 2)
    assert mask_of(blurred).sum() == 9
    cv2.imwrite(str(tmp_path / "mask.jpg"), SHAPE * np.uint8(255), (cv2.IMWRITE_JPEG_QUALITY, 90))
    assert (read_pixels(tmp_path / "mask.jpg") > 0).sum() > 9, "a jpg has values around its targets"
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg"), SHAPE)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_small_integers_number_the_targets(kind, tmp_path):
    numbers = np.zeros(SHAPE.shape, kind)
    numbers[2, 2], numbers[10:13, 14:17], numbers[20, 5] = 1, 2, 3
    np.testing.assert_array_equal(mask_of(numbers), numbers > 0)
    mask, levels = inspect_mask(write_image(tmp_path / "numbers.png", numbers))
    assert mask.sum() == 11 and levels == "4 levels, all above 0 is target"
    numbers[0, 0] = 33
    assert mask_of(numbers).sum() == 1, "no longer numbers: half of the maximum"


def test_a_mask_in_the_alpha_channel_and_a_palette_with_a_background(tmp_path):
    rgba = np.dstack([np.full((*SHAPE.shape, 3), 255, np.uint8), SHAPE * np.uint8(255)])
    np.testing.assert_array_equal(read_mask(write_image(tmp_path / "alpha.png", rgba)), SHAPE)
    palette = Image.fromarray(np.where(SHAPE, 11, 10).astype(np.uint8))
    palette.putpalette([5] * 33 + [250, 5, 5])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), SHAPE)


def test_one_level_is_target_unless_it_is_zero():
    assert mask_of(np.full((3, 3), 255, np.uint8)).all() and not mask_of(np.zeros((3, 3), np.uint8)).any()


@pytest.fixture
def images(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    write_lists(tmp_path, train=NAMES[:2], test=NAMES[2:])
    return tmp_path


def test_masks_that_look_wrong_are_said(images):
    write_image(images / "masks" / "a.png", np.full((32, 40), 255, np.uint8))
    write_image(images / "masks" / "c.png", cv2.GaussianBlur(read_pixels(images / "masks" / "c.png"), (5, 5), 0))
    write_image(images / "masks" / "d.png", np.pad([[1, 0, 2]], ((10, 21), (10, 27))).astype(np.uint8))
    grey, numbered, large = mask_lines("set", open_dataset(images).sequences)
    assert "1 of 4 masks looked at have more than two levels" in grey and str(images / "masks" / "c.png") in grey
    assert grey.endswith("above half of the maximum is target)"), "a line for each rule"
    assert numbered.endswith(f"{images / 'masks' / 'd.png'} (3 levels, all above 0 is target)")
    assert "warning: 1 of 4 masks looked at make target of more than 10% of the image" in large
    assert large.endswith("a.png (100%)")


def test_a_set_without_any_target_is_said(images):
    for name in NAMES[:3]:
        write_image(images / "masks" / f"{name}.png", np.zeros((32, 40), np.uint8))
    index = open_dataset(images)
    assert mask_lines("set", index.sequences[:3]) == ["set: warning: none of 3 masks looked at shows a target"]
    assert mask_lines("set", index.sequences) == [] == mask_lines("set", index.sequences[::-1])
    assert mask_lines("set", []) == []


@pytest.fixture
def faulty(images):
    write_image(images / "masks" / "c.png", np.zeros((30, 40), np.uint8))
    (images / "images" / "a.png").write_bytes(b"<html>")
    (images / "masks" / "b.png").unlink()
    return images


def test_without_the_option_what_cannot_be_used_is_an_error_that_names_it(faulty):
    index = open_dataset(faulty)
    with pytest.raises(InputError, match=r"c\.png is 40 x 30, its image .*c\.png 40 x 32; .*--skip_unusable"):
        usable_index(index, ["test"])
    with pytest.raises(InputError, match=r"a\.png: its 6 bytes are not a complete png"):
        usable_index(index, ["train"])


def test_skip_unusable_leaves_it_out_and_lists_it(faulty):
    write_lists(faulty, train=["a", "b", "d"], test=["c", "e"])
    write_pairs(faulty / "images", faulty / "masks", ["e"])
    index = usable_index(open_dataset(faulty), ["train", "test"], skip=True)
    assert [s.name for s in index.split("train")] == ["d"] and [s.name for s in index.split("test")] == ["e"]
    assert len(index.left_out) == 3
    assert "LEFT OUT by --skip_unusable: 3\n    left out: cannot read image" in index.summary
    assert f"left out: image {faulty / 'images' / 'b.png'} has no mask" in index.summary


def test_in_a_sequence_only_what_is_wrong_is_left_out(tmp_path):
    write_sequences(tmp_path, ["s", "t"], frames=4)
    write_image(tmp_path / "masks" / "s" / "1.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "images" / "s" / "2.png").write_bytes(b"")
    write_lists(tmp_path, train=["s"], test=["t"])
    (sequence,) = usable_index(open_dataset(tmp_path), ["train"], skip=True).split("train")
    assert [(frame.name, frame.mask is not None) for frame in sequence.frames] == [
        ("0", True),
        ("1", False),
        ("3", True),
    ]


def test_an_image_in_two_parts_is_an_error(images):
    write_lists(images, train=["a", "b"], test=["b", "c"])
    with pytest.raises(InputError, match=r"two parts of the split .*b\.png \(train and test\)"):
        usable_index(open_dataset(images), ["test"])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tiff"])
def test_headers(tmp_path, ending, kind):
    if kind is np.uint16 and ending in (".jpg", ".bmp"):
        pytest.skip("8 bits only")
    path = write_image(tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 255, (20, 30)).astype(kind))
    assert read_size(path) == (30, 20)
    data = path.read_bytes()
    path.write_bytes(data + b"\xff\xda appended")  # as some cameras do
    assert read_size(path) == (30, 20) and read_pixels(path).shape == (20, 30)
    if ending in (".png", ".jpg", ".bmp"):
        path.write_bytes(data[:-20])
        for read in (read_size, read_pixels):
            with pytest.raises(InputError, match="not a complete png"):
                read(path)


def test_a_huge_claim_a_pipe_and_a_dangling_link_are_sentences(tmp_path):
    huge = bytearray(write_image(tmp_path / "huge.png", np.zeros((1, 1), np.uint8)).read_bytes())
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(huge)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for read in (read_size, read_pixels):
        with pytest.raises(InputError, match="claims to be 60000 x 60000"):
            read(tmp_path / "huge.png")
        with pytest.raises(InputError, match="no regular file"):
            read(tmp_path / "pipe.png")
        with pytest.raises(InputError, match=r"link to .*gone\.png, which does not exist"):
            read(tmp_path / "link.png")


@pytest.mark.skipif(not REAL.is_dir(), reason="real data not present")
def test_real_masks_of_two_levels_are_what_they_were():
    for path in sorted((REAL / "NUAA-SIRST" / "masks").iterdir())[::20]:
        np.testing.assert_array_equal(read_mask(path), read_pixels(path) > 0)


def test_an_image_whose_format_only_the_decoder_knows_is_usable(images):
    data = cv2.imencode(".webp", read_pixels(images / "images" / "a.png"), (cv2.IMWRITE_WEBP_QUALITY, 101))[1]
    (images / "images" / "a.png").write_bytes(data.tobytes())
    kept = usable_index(open_dataset(images), ["train"], skip=True)
    assert len(kept.parts["train"]) == 2 and not kept.left_out


def test_at_most_64_masks_are_looked_at(images):
    mask = read_pixels(images / "masks" / "a.png")
    for number in range(70):
        write_image(images / "images" / f"m{number}.png", mask)
        write_image(images / "masks" / f"m{number}.png", cv2.GaussianBlur(mask, (5, 5), 0))
    (line,) = mask_lines("set", open_dataset(images).sequences)
    assert " of 64 masks looked at" in line


def test_a_frame_of_another_size_in_a_sequence(tmp_path):
    write_sequences(tmp_path, ["a", "b"], frames=4)
    write_image(tmp_path / "images" / "b" / "2.png", np.zeros((30, 40), np.uint8))
    (tmp_path / "masks" / "b" / "2.png").unlink()
    write_lists(tmp_path, train=["b"], test=["a"])
    index = open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"2\.png is 40 x 30, most of its sequence 40 x 32; .* --skip_unusable"):
        usable_index(index, ["train"], num_frames=5)
    usable = usable_index(index, ["train"], skip=True, num_frames=5)
    assert usable_index(index, ["train"]).parts == index.parts, "single frames may differ in size"
    assert [frame.name for frame in usable.split("train")[0].frames] == ["0", "1", "3"]
    assert len(usable.left_out) == 1


@pytest.mark.parametrize("num_frames", [1, 5])
def test_inference_refuses_sizes_that_its_clips_cannot_have(tmp_path, monkeypatch, num_frames):
    write_sequences(tmp_path, ["a", "b"], frames=4)
    write_image(tmp_path / "images" / "b" / "2.png", np.zeros((30, 40), np.uint8))
    (tmp_path / "masks" / "b" / "2.png").unlink()
    write_lists(tmp_path, train=["a"], test=["b"])
    (tmp_path / "any.pth").touch()
    monkeypatch.setattr(inference, "load_recipe", lambda *_, **__: (LocalContrast(num_frames), {}))
    words = ["--model_path", str(tmp_path / "any.pth"), "--dataset", str(tmp_path)]
    args = inference.parse_arguments([*words, "--output_dir", str(tmp_path / "out")])
    indices = [open_dataset(tmp_path)]
    if num_frames == 1:
        assert len(inference.prepare_jobs(indices, args, torch.device("cpu"))) == 1
    else:
        with pytest.raises(InputError, match=r"2\.png is 40 x 30, most of its sequence 40 x 32"):
            inference.prepare_jobs(indices, args, torch.device("cpu"))


def test_clips_of_single_images_are_said(images):
    sequences = open_dataset(images).sequences
    (line,) = data_lines(ClipDataset(sequences, 5, plain, dataset_name="set"))
    assert line.startswith("set: single images, each of which is all 5 frames of its clip")
    assert data_lines(ClipDataset(sequences, 1, plain)) == []
