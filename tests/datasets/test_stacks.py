"""Stacks of frames in one file, and 16-bit video."""

import av
import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from istd.datasets import ClipDataset, open_dataset
from istd.datasets.layouts import Frame
from istd.datasets.usable import inspect_frame, usable_index
from istd.test_script.media.frame_sources import find_sources
from istd.utils.errors import InputError
from istd.utils.grey_levels import range_frames, sequence_range, to_unit
from istd.utils.image_headers import read_size
from istd.utils.image_stacks import stack_pages
from istd.utils.images import read_mask, read_pixels
from tests.datasets.test_clips import plain
from tests.reference.datasets_folders import write_image

RANDOM = np.random.default_rng(0)
RAW = (7000 + RANDOM.integers(0, 510, (5, 24, 32))).astype(np.uint16)


def write_stack(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, frames)
    else:
        tifffile.imwrite(path, frames, bigtiff=path.stem.startswith("big"), photometric="minisblack")
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["stack.tif", "big.tiff", "stack.npy"])
def test_every_page_is_read_as_it_is_stored(tmp_path, name, kind):
    frames = (RAW % 200 if kind == np.uint8 else RAW).astype(kind)
    pages = stack_pages(write_stack(tmp_path / name, frames))
    assert [page.stem for page in pages] == [f"{number:06d}" for number in range(5)]
    for page, frame in zip(pages, frames, strict=True):
        np.testing.assert_array_equal(read_pixels(page), frame)
        assert inspect_frame(Frame(page.stem, page, None)).size == "32 x 24"


@pytest.mark.parametrize("shape", [(5, 24, 32), (24, 32)])
def test_an_array_of_booleans_is_black_and_white(tmp_path, shape):
    bits = RAW.ravel()[: np.prod(shape)].reshape(shape) > 7400
    path = write_stack(tmp_path / "a.npy", bits)
    for page, frame in zip(stack_pages(path) or [path], bits.reshape(-1, 24, 32), strict=True):
        np.testing.assert_array_equal(read_mask(page), frame)
        np.testing.assert_array_equal(read_pixels(page), np.where(frame, np.uint8(255), np.uint8(0)))
        assert read_pixels(page).dtype == np.uint8


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_single_page_is_an_image(tmp_path, kind):
    path = write_stack(tmp_path / "one.tif", RAW[0].astype(kind))
    assert stack_pages(path) == []
    np.testing.assert_array_equal(read_pixels(path), RAW[0].astype(kind))


GREY = RAW[0]
GREY_8 = (GREY % 200).astype(np.uint8)
FLAT = np.full_like(GREY, 65535)  # alpha
RGB = np.stack([GREY, GREY - 7000, FLAT])
LUMA = cv2.cvtColor(np.moveaxis(RGB, 0, 2), cv2.COLOR_RGB2GRAY)
PALETTE = np.zeros((3, 256), np.uint16)
PALETTE[:, :200] = 256 * np.arange(255, 55, -1)
ALPHA = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
TURNED = {"extratags": [(274, 3, 1, 6, True)]}  # by 90 degrees


@pytest.mark.parametrize(
    ("stored", "options", "levels"),
    [
        (np.dstack([GREY, FLAT // 2]), {"photometric": "minisblack", **ALPHA}, GREY),
        (np.dstack([GREY_8, GREY_8]), {"photometric": "minisblack", **ALPHA}, GREY_8),
        (np.stack([GREY, FLAT // 2]), {"photometric": "minisblack", "planarconfig": "separate"}, GREY),
        (RGB, {"photometric": "rgb", "planarconfig": "separate"}, LUMA),
        (np.moveaxis(np.stack([*RGB, FLAT // 2]), 0, 2), {"photometric": "rgb"}, LUMA),
        (GREY, {"photometric": "miniswhite"}, 65535 - GREY),
        (GREY_8, {"photometric": "miniswhite"}, 255 - GREY_8),
        (GREY_8, {"photometric": "palette", "colormap": PALETTE}, 255 - GREY_8),
        (GREY_8 > 99, {"photometric": "minisblack"}, (GREY_8 > 99) * np.uint8(255)),
        (GREY, {"photometric": "minisblack", **TURNED}, GREY),
        (GREY_8, {"photometric": "miniswhite", **TURNED}, 255 - GREY_8),
        (GREY[:1], {"photometric": "minisblack"}, GREY[:1]),
    ],
)
def test_every_form_of_tiff_is_read_alike_as_a_file_and_as_a_page(tmp_path, stored, options, levels):
    tifffile.imwrite(tmp_path / "file.tif", stored, **options)
    with tifffile.TiffWriter(tmp_path / "stack.tif", bigtiff=True, byteorder=">") as stack:
        for page in (stored[..., ::-1].copy(), stored):
            stack.write(page, contiguous=False, **options)
    for path in (tmp_path / "file.tif", stack_pages(tmp_path / "stack.tif")[1]):
        pixels = read_pixels(path)
        assert pixels.dtype == levels.dtype and read_size(path) == levels.shape[::-1]
        np.testing.assert_array_equal(pixels, levels)


@pytest.mark.parametrize(
    ("pages", "options", "tolerance"),
    [
        ([GREY[::-1], GREY], {"compression": "tiff_lzw", "tiffinfo": {274: 6}}, 0),
        ([GREY[::-1] % 2 == 0, GREY % 2 == 0], {"compression": "group4"}, 0),
        ([np.full_like(GREY_8, 9), np.full_like(GREY_8, 77)], {"compression": "jpeg"}, 1),
    ],
)
def test_compressed_stacks(tmp_path, pages, options, tolerance):
    first, second = map(Image.fromarray, pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second], **options)
    for page, levels in zip(stack_pages(tmp_path / "a.tif"), pages, strict=True):
        pixels = read_pixels(page)
        expected = levels * np.uint8(255) if levels.dtype == bool else levels
        assert pixels.dtype == expected.dtype
        np.testing.assert_allclose(pixels, expected, atol=tolerance)


def test_what_would_lose_its_levels_or_is_damaged_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RAW, photometric="minisblack")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cannot read image .*a\.tif, page 4: .*; copy or convert it again"):
        read_pixels(stack_pages(path)[4])
    deep = np.dstack([GREY] * 4)
    for pixels in (deep, [deep] * 2):
        tifffile.imwrite(path, pixels, photometric="separated")
        with pytest.raises(InputError, match="neither grey nor RGB, but SEPARATED"):
            read_pixels(next(iter(stack_pages(path)), path))


def test_a_mask_of_constant_grey_has_its_target_in_the_alpha_channel(tmp_path):
    mask = GREY_8 > 150
    pixels = np.dstack([np.full_like(GREY_8, 255), mask * np.uint8(255)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **ALPHA)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), mask)


@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_a_dataset_of_stacks(tmp_path, ending):
    masks = np.zeros((5, 24, 32), np.uint8)
    masks[:, 4:7, 5:8] = 255
    for name in ("a", "b"):
        write_stack(tmp_path / "images" / f"{name}{ending}", RAW)
        write_stack(tmp_path / "masks" / f"{name}{ending}", masks)
    alone = write_stack(tmp_path / "masks" / f"c{ending}", masks)
    index = usable_index(open_dataset(tmp_path), ["train", "test"])
    assert index.masks_without_image == [alone]
    assert index.info.kind == "sequences" and [len(sequence.frames) for sequence in index.sequences] == [5, 5]
    sample = ClipDataset(index.sequences, 3, plain)[2]
    chosen = sequence_range(range_frames(RAW))
    np.testing.assert_array_equal(sample.clip[:, 0].numpy(), [to_unit(frame, chosen) for frame in RAW[1:4]])
    assert sample.frame == "000002" and (sample.mask[0, 4:7, 5:8] == 1).all()
    write_stack(tmp_path / "masks" / f"b{ending}", masks[:3])
    with pytest.raises(InputError, match=r"has 5 pages, its masks .* are 3"):
        open_dataset(tmp_path)


def test_of_images_beside_stacks_or_folders_the_more_numerous_are_read_and_the_others_said(tmp_path):
    for folder, frames in (("images", RAW), ("masks", RAW > 7400)):
        for name in ("b", "c"):
            write_stack(tmp_path / folder / f"{name}.tif", frames)
        write_stack(tmp_path / folder / "a.tif", frames[0])
        write_image(tmp_path / folder / "more" / "d.png", frames[0].astype(np.uint16))
    index = open_dataset(tmp_path)
    assert [(sequence.name, len(sequence.frames)) for sequence in index.sequences] == [("a", 1), ("b", 5), ("c", 5)]
    assert all(frame.has_mask for sequence in index.sequences for frame in sequence.frames)
    assert index.layout.endswith(", a page a frame (without 1 image in folders)")
    for number in range(8):  # with a.tif: 9 images, and 10 pages in stacks
        write_image(tmp_path / "images" / f"{number}.png", GREY)
    said = "(without 8 images beside the stacks and 1 image in folders)"
    assert len(open_dataset(tmp_path).sequences) == 3 and open_dataset(tmp_path).layout.endswith(said)
    write_image(tmp_path / "images" / "8.png", GREY)
    index = open_dataset(tmp_path)
    assert index.info.kind == "images" and len(index.sequences) == 12
    assert index.layout.endswith("(without 8 pages after the first of a stack and 1 image in folders)")
    for number in range(9):
        (tmp_path / "images" / f"{number}.png").unlink()
    for number in range(10):  # with d.png: 11 images in a folder
        write_image(tmp_path / "images" / "more" / f"{number}.png", GREY)
    index = open_dataset(tmp_path)
    assert [(sequence.name, len(sequence.frames)) for sequence in index.sequences] == [("more", 11)]
    assert index.layout.endswith("(without 3 images beside the folders of the sequences)")


@pytest.mark.parametrize("content", [np.zeros(5), np.zeros((2, 3, 4, 5)), np.array([None])])
def test_other_arrays_are_refused(tmp_path, content):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        stack_pages(tmp_path / "a.npy")


def test_stacks_and_16_bit_videos_are_sources_of_frames(tmp_path):
    write_stack(tmp_path / "stack.tif", RAW)
    write_stack(tmp_path / "stack.npy", RAW)
    with av.open(str(tmp_path / "video.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray16le"
        for frame in RAW:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray16le")))
        container.mux(stream.encode())
    chosen = sequence_range(range_frames(RAW))
    for name in ("stack.tif", "stack.npy", "video.mkv"):
        (source,) = find_sources(tmp_path / name)
        frames = dict(source.frames(pytest.fail))
        assert list(frames) == [f"{number:06d}" for number in range(5)] and source.length == 5
        np.testing.assert_array_equal(list(frames.values()), [to_unit(frame, chosen) for frame in RAW])
        assert source.scale.range == chosen


@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_every_stack_of_a_folder_is_a_sequence(tmp_path, capsys, ending):
    """Stacks alone, beside single images, and in a folder of folders; names that would be the same are refused."""
    for name, frames in (("b10", RAW[2:]), ("b9", RAW[:2])):
        write_stack(tmp_path / "all" / "s" / f"{name}{ending}", frames)
    for place in (tmp_path / "all" / "s", tmp_path / "all"):
        sources = find_sources(place)
        assert [tuple(source[:3]) for source in sources] == [("b9", "folder", 2), ("b10", "folder", 3)]
        frames = [frame for source in sources for _, frame in source.frames(pytest.fail)]
        ranges = [sequence_range(RAW[:2])] * 2 + [sequence_range(RAW[2:])] * 3
        np.testing.assert_array_equal(frames, [to_unit(*pair) for pair in zip(RAW, ranges, strict=True)])
    (tmp_path / "all" / "s" / "notes").mkdir()
    assert [source.name for source in find_sources(tmp_path / "all" / "s")] == ["b9", "b10"]
    write_stack(tmp_path / "all" / "t" / f"b9{ending}", RAW)
    with pytest.raises(InputError, match="2 sequences named b9"):
        find_sources(tmp_path / "all")
    (tmp_path / "all" / "s" / "1.tif").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "all" / "s" / "2.png"), RAW[0])
    images, *stacks = find_sources(tmp_path / "all" / "s", "frames")
    assert images[:3] == ("s", "folder", 2)
    assert [source.name for source in stacks] == (["b9", "b10"] if ending == ".tif" else [])
    assert ("2 .npy files beside the images of s not read" in capsys.readouterr().out) == (ending == ".npy")


def test_an_8_bit_video_stays_as_it_is(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 25, (32, 24))
    grey = (RAW[0] % 200).astype(np.uint8)
    writer.write(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    writer.release()
    (source,) = find_sources(tmp_path / "a.avi")
    ((_, frame),) = source.frames(pytest.fail)
    np.testing.assert_allclose(frame, grey / 255, atol=1.01 / 255)
    assert source.scale.range is None
