import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from istd.utils.errors import InputError
from istd.utils.image_headers import read_size
from istd.utils.image_scan import PNG_SIGNATURE
from istd.utils.images import (
    image_files,
    last_number,
    numeric_key,
    read_grey,
    read_mask,
    read_pixels,
    size_text,
    window_around,
)
from tests.reference.datasets_folders import write_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tiff"])
def test_8_bit_is_divided_by_255(tmp_path, ending):
    grey = read_grey(write_image(tmp_path / f"a{ending}", RAMP))
    assert grey.dtype == np.float32
    np.testing.assert_array_equal(grey, RAMP / np.float32(255))


def test_jpg_is_read_to_its_own_precision(tmp_path):
    grey = read_grey(write_image(tmp_path / "a.jpg", np.full((8, 8), 77, np.uint8)))
    np.testing.assert_allclose(grey, 77 / 255, atol=1.5 / 255)


def test_equal_channels_are_the_channel_itself_and_alpha_is_ignored(tmp_path):
    rgb = write_image(tmp_path / "rgb.png", np.repeat(RAMP[..., None], 3, axis=2))
    alpha = np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 9)])
    rgba = write_image(tmp_path / "rgba.png", alpha)
    np.testing.assert_array_equal(read_pixels(rgb), RAMP)
    np.testing.assert_array_equal(read_pixels(rgba), RAMP)


def test_colour_becomes_luma(tmp_path):
    bgr = np.zeros((4, 4, 3), np.uint8)
    bgr[..., 2] = 200
    assert read_pixels(write_image(tmp_path / "red.png", bgr))[0, 0] == round(0.299 * 200)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.float64])
def test_colour_of_every_kind_of_number_becomes_luma(tmp_path, kind):
    bgr = np.zeros((2, 2, 3), kind)
    bgr[0, 0, 2] = 100
    assert read_pixels(write_image(tmp_path / "red.tiff", bgr))[0, 0] == pytest.approx(29.9)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bit_keeps_every_level(tmp_path, ending):
    raw = (7000 + np.arange(1024)).astype(np.uint16).reshape(32, 32)  # a thermal camera's narrow range
    grey = read_grey(write_image(tmp_path / f"raw{ending}", raw))
    low, high = np.percentile(np.arange(1024), (0.5, 99.5))
    margin = 0.25 * (high - low)
    expected = (np.arange(1024) - low + margin) / (high - low + 2 * margin)
    np.testing.assert_allclose(grey, expected.reshape(32, 32), atol=1e-6)
    assert len(np.unique(grey)) == 1024


def test_a_constant_16_bit_frame_is_black(tmp_path):
    assert read_grey(write_image(tmp_path / "flat.png", np.full((4, 4), 9000, np.uint16))).max() == 0


def test_palette_images(tmp_path):
    image = Image.fromarray((RAMP > 100).astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), RAMP > 100)


@pytest.mark.parametrize("value", [1, 38, 254, 255, 300, 65535])
def test_every_value_above_zero_is_target(tmp_path, value):
    shape = (RAMP > 200).astype(np.uint16) * value
    path = write_image(tmp_path / "mask.png", shape.astype(np.uint8) if value < 256 else shape)
    mask = read_mask(path)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, RAMP > 200)


def test_a_mask_in_one_colour_with_alpha(tmp_path):
    bgra = np.dstack([(RAMP > 200) * np.uint8(255), 0 * RAMP, 0 * RAMP, np.full_like(RAMP, 255)])
    np.testing.assert_array_equal(read_mask(write_image(tmp_path / "mask.png", bgra)), RAMP > 200)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tiff"])
def test_a_truncated_file_is_named(tmp_path, ending):
    path = tmp_path / f"cut{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path.write_bytes(cv2.imencode(ending, noise)[1].tobytes()[:1500])
    with pytest.raises(InputError, match=f"cut{ending}: its 1500 bytes are not a complete png, jpg, bmp or tiff image"):
        read_grey(path)


def test_a_thumbnail_in_a_jpg_is_not_its_end(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    plain = cv2.imencode(".jpg", noise)[1].tobytes()
    thumbnail = b"\xff\xd8\xff\xda some pixels \xff\xd9"
    data = plain[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + plain[2:]
    path = tmp_path / "image.jpg"
    path.write_bytes(data + bytes(100))  # some cameras fill a file up
    np.testing.assert_array_equal(read_pixels(path), cv2.imdecode(np.frombuffer(plain, np.uint8), -1))
    path.write_bytes(data[:-1000])
    with pytest.raises(InputError, match=r"image\.jpg"):
        read_pixels(path)


def test_fill_bytes_between_the_segments_of_a_jpg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 32), dtype=np.uint8)
    plain = cv2.imencode(".jpg", noise)[1].tobytes()
    path = tmp_path / "image.jpg"
    path.write_bytes(plain[:2] + b"\xff\xff" + plain[2:])
    assert read_size(path) == (32, 24)
    np.testing.assert_array_equal(read_pixels(path), cv2.imdecode(np.frombuffer(plain, np.uint8), -1))


@pytest.mark.parametrize("content", [b"", b"no image at all", PNG_SIGNATURE + bytes(4) + b"IEND" + bytes(4)])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "wrong.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"wrong\.png.*not a complete"):
        read_mask(path)


@pytest.mark.parametrize("place", [1 << 62, (1 << 63) - 1, (1 << 64) - 1])
def test_a_tiff_whose_directory_is_at_an_impossible_place_is_named(tmp_path, place):
    path = tmp_path / "wrong.tiff"
    path.write_bytes(b"II+\0" + struct.pack("<HHQ", 8, 0, place) + bytes(8))
    with pytest.raises(InputError, match=r"wrong\.tiff.*not a complete"):
        read_pixels(path)
    with pytest.raises(InputError, match=r"wrong\.tiff.*damaged"):
        read_size(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_size_of_a_bigtiff_may_have_64_bits(tmp_path, order):
    path, pixels = tmp_path / "big.tiff", np.arange(48, dtype=np.uint16).reshape(6, 8)
    tifffile.imwrite(path, pixels, bigtiff=True, byteorder=order)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from(f"{order}Q", data, 8)
    for at in range(start + 8, start + 8 + 20 * struct.unpack_from(f"{order}Q", data, start)[0], 20):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag in (256, 257):
            (side,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], data, at + 12)
            struct.pack_into(f"{order}HHQQ", data, at, tag, 16, 1, side)
    path.write_bytes(data)
    assert read_size(path) == (8, 6)
    np.testing.assert_array_equal(read_pixels(path), pixels)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tiff"])
def test_an_image_that_claims_billions_of_pixels_is_refused(tmp_path, ending):
    data = bytearray(cv2.imencode(ending, np.zeros((8, 8), np.uint8))[1].tobytes())
    if ending == ".tiff":
        (start,) = struct.unpack_from("<I", data, 4)
        for at in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
            if struct.unpack_from("<H", data, at)[0] in (256, 257):  # width and height
                struct.pack_into("<HII", data, at + 2, 4, 1, 60000)
    else:
        form, at = {".png": (">II", 16), ".jpg": (">HH", data.find(b"\xff\xc0") + 5), ".bmp": ("<ii", 18)}[ending]
        struct.pack_into(form, data, at, 60000, 60000)
    path = tmp_path / f"huge{ending}"
    path.write_bytes(data)
    reason = "are not a complete png" if ending == ".bmp" else "claims to be 60000 x 60000"
    for read in (read_pixels, read_size):
        with pytest.raises(InputError, match=reason):
            read(path)


def test_a_missing_file_and_values_that_are_no_numbers(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_grey(tmp_path / "none.png")
    broken = write_image(tmp_path / "nan.tiff", np.full((2, 2), np.nan, np.float32))
    with pytest.raises(InputError, match="no finite value"):
        read_grey(broken)


def test_names_are_ordered_by_their_numbers():
    names = ["1(10)", "1 (3)", "1(2)", "1(1)", "f10", "f9", "2", "010"]
    assert sorted(names, key=numeric_key) == ["1(1)", "1(2)", "1 (3)", "1(10)", "2", "010", "f9", "f10"]


def test_image_files_are_found_by_name_in_numeric_order(tmp_path):
    for name in ("f10.png", "f9.JPG", "f1.tif", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert {key: path.name for key, path in image_files(tmp_path).items()} == {
        "f1": "f1.tif",
        "f9": "f9.JPG",
        "f10": "f10.png",
    }
    assert list(image_files(tmp_path)) == ["f1", "f9", "f10"]
    assert list(image_files(tmp_path, (".txt",), lambda path: path.name.upper())) == ["NOTES.TXT"]
    assert image_files(tmp_path / "nowhere") == {}
    (tmp_path / "f9.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"f9\.JPG and .*f9\.png have the same name"):
        image_files(tmp_path)


def test_size_text_is_width_by_height():
    assert size_text(np.zeros((3, 5))) == "5 x 3"


def test_a_window_lies_around_its_centre_and_inside_the_image():
    assert window_around((50, 60.4), (100, 200), 21) == (slice(40, 61), slice(50, 71))
    assert window_around((2.0, 199), (100, 200), 20) == (slice(0, 20), slice(180, 200)), "moved inside"
    assert window_around((5, 9), (12, 200), 20) == (slice(0, 12), slice(0, 20)), "cut where the image is smaller"


def test_the_last_number_of_a_name():
    assert [last_number(name) for name in ("seq2_frame010", "1 (3)", "7", "sky")] == [10, 3, 7, None]
