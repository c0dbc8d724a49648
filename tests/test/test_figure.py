"""The figure command: where the halves and the magnified part lie, and how many frames an animation has."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from istd.test_script import figure
from istd.test_script.predictor import FrameResult, Predictor
from istd.test_script.predictor.detections import find_detections
from istd.utils.errors import InputError
from tests.reference.local_contrast import LocalContrast


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """A folder of 7 frames of 60 x 80 px with a bright target that moves 2 px a frame, for a stand-in network."""

    def from_checkpoint(path, device, image_size, code, **options):
        return Predictor(LocalContrast(num_frames=1), lambda frame: torch.from_numpy(frame)[None], **options)

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(7):
        frame = np.full((60, 80), 60, np.uint8)
        frame[20:23, 50 + 2 * number : 53 + 2 * number] = 250
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


def test_the_target_is_magnified_in_both_halves_and_its_score_is_coloured():
    frame, probability = np.zeros((256, 320), np.float32), np.zeros((256, 320), np.float32)
    frame[100, 200] = probability[100, 200] = 1
    mask = probability > 0.5
    picture = figure.picture_of(FrameResult(frame, probability, mask, find_detections(mask, probability)), [])
    assert picture.shape == (512, 2 * 640 + figure.GAP, 3)  # enlarged by 2
    left, right = picture[:, :640], picture[:, 640 + figure.GAP :]
    color = right[200, 400]
    assert color.min() > 150  # the brightest one of the map
    assert (right[200:202, 400:402] == color).all()
    # 21 x 21 px of 8 x 8 px each in the lower left corner, with the target in the middle, the 11th of them
    top = 512 - 21 * 8
    assert (right[top + 80 : top + 88, 80:88] == color).all() and (left[top + 80 : top + 88, 80:88] == 255).all()
    assert (right[top + 79, 84] != color).any() and (right[top + 88, 84] != color).any()
    assert (left[top, :168] == 255).all()  # its frame


def test_an_animation_shows_every_nth_frame_of_the_first_ones(frames, tmp_path, capsys):
    output = tmp_path / "out.webp"
    figure.main(
        ["--model_path", "any.pth", "--input", str(frames), "--output", str(output), "--frames", "5", "--every", "2"]
    )
    with Image.open(output) as animation:
        assert animation.n_frames == 3
        assert animation.size == (2 * 640 + figure.GAP, 480)
    assert "3 of 5 frames" in capsys.readouterr().out


def test_a_png_shows_the_first_frame(frames, tmp_path):
    figure.main(["--model_path", "any.pth", "--input", str(frames), "--output", str(tmp_path / "out.png")])
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert (picture[20 * 8 : 23 * 8, 50 * 8 : 53 * 8] == 250).all()  # where the target is in the first frame


@pytest.mark.parametrize("options", [["--output", "out.mp4"], ["--output", "out.gif", "--every", "0"]])
def test_what_cannot_be_drawn_is_refused(frames, options):
    with pytest.raises(InputError, match="expected"):
        figure.main(["--model_path", "any.pth", "--input", str(frames), *options])
