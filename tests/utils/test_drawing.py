import numpy as np
import pytest

from istd.utils.drawing import GAP, LABEL_HEIGHT, contact_sheet, enlarge, grey_to_rgb, outline, stretch_contrast


def test_outline_surrounds_a_single_pixel_and_leaves_it():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    drawn = outline(np.full((5, 5, 3), 7, np.uint8), mask, (255, 0, 0))
    red = (drawn == (255, 0, 0)).all(axis=2)
    expected = np.zeros((5, 5), bool)
    expected[1:4, 1:4] = True
    expected[2, 2] = False
    assert (red == expected).all()
    assert (drawn[~red] == 7).all()


def test_outline_keeps_its_input_and_works_at_the_border():
    rgb = np.zeros((4, 4, 3), np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    drawn = outline(rgb, mask, (0, 255, 0))
    assert rgb.sum() == 0
    assert (drawn[..., 1] == 255).sum() == 3


def test_outline_refuses_another_size():
    with pytest.raises(IndexError, match="did not match"):
        outline(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), bool), (1, 1, 1))


def test_contact_sheet_places_tiles_of_different_sizes():
    tiles = [np.full((10, 20, 3), level, np.uint8) for level in (50, 100)] + [np.full((6, 8, 3), 150, np.uint8)]
    sheet = contact_sheet(tiles, ["a", "b", "c"], columns=2)
    step_y, step_x = 10 + LABEL_HEIGHT + GAP, 20 + GAP
    assert sheet.shape == (2 * step_y + GAP, 2 * step_x + GAP, 3)
    assert (sheet[GAP : GAP + 10, GAP : GAP + 20] == 50).all()
    assert (sheet[GAP : GAP + 10, GAP + step_x : GAP + step_x + 20] == 100).all()
    assert (sheet[GAP + step_y : GAP + step_y + 6, GAP : GAP + 8] == 150).all()
    assert sheet[GAP + 10 : step_y, GAP : GAP + 20].max() > 100, "the label is written"


def test_contact_sheet_wants_a_label_per_tile():
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet([np.zeros((2, 2, 3), np.uint8)], [], columns=1)


def test_grey_to_rgb_rounds_and_clips():
    assert grey_to_rgb(np.array([[-1.0, 0.5, 2.0]]))[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]


def test_contrast_is_stretched_between_percentiles():
    """Of 1001 levels 0..1000, the 0.5th percentile is 5 and the 99.9th 999."""
    stretched = stretch_contrast(np.arange(1001.0).reshape(7, 143))
    np.testing.assert_allclose(stretched.ravel()[[0, 5, 502, 999]], [-5 / 994, 0, 497 / 994, 1])
    assert (stretch_contrast(np.full((4, 4), 0.3)) == 0).all()


def test_enlarging_repeats_pixels():
    assert enlarge(np.array([[1, 2]]), 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert enlarge(np.zeros((2, 3, 3), np.uint8), 5).shape == (10, 15, 3)
