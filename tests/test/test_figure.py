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
from istd.utils.grey_levels import GreyRange
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


def test_raw_frames_have_the_range_of_the_checkpoint_or_of_the_command(frames, tmp_path, monkeypatch):
    """Levels of 16 bits that become the levels of the png, or half of them."""
    model, prepare = LocalContrast(num_frames=1), lambda frame: torch.from_numpy(frame)[None]

    def trained(path, device, image_size, code, grey_range=None, **options):
        return Predictor(model, prepare, grey_range=grey_range or GreyRange(0, 65535), **options)

    monkeypatch.setattr(Predictor, "from_checkpoint", trained)
    for path in frames.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) * np.uint16(257))
    for options, level in (([], 250), (["--range", "0", "131070"], 125)):
        command = ["--model_path", "any.pth", "--input", str(frames), "--output", str(tmp_path / "out.png")]
        figure.main([*command, *options])
        assert (cv2.imread(str(tmp_path / "out.png"))[20 * 8 : 23 * 8, 50 * 8 : 53 * 8] == level).all()


def test_the_first_frame_is_predicted_with_those_after_it(frames, tmp_path, monkeypatch):
    """A network whose map is that of the frame after the target, moved by 2 px; unrelated images have none."""

    def from_checkpoint(path, device, image_size, code, **options):
        return Predictor(FrameAfter(num_frames=3), lambda frame: torch.from_numpy(frame)[None], **options)

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    command = ["--model_path", "any.pth", "--input", str(frames), "--output", str(tmp_path / "out.png")]
    assert bright_columns(command) == [52, 53, 54]
    cv2.imwrite(str(frames / "0.png"), cv2.imread(str(frames / "0.png"))[:59])
    assert bright_columns(command) == [50, 51, 52]


class FrameAfter(LocalContrast):
    def forward(self, clip):
        return super().forward(clip.roll(-1, dims=1))


def bright_columns(command):
    """The columns where the score map of a figure is bright in the frame's row 21."""
    figure.main(command)
    row = cv2.imread(command[-1])[21 * 8, 640 + figure.GAP :]
    return np.flatnonzero(row.reshape(80, 8, 3).min(axis=(1, 2)) > 150).tolist()


@pytest.mark.parametrize("options", [["--output", "out.mp4"], ["--output", "out.gif", "--every", "0"]])
def test_what_cannot_be_drawn_is_refused(frames, options):
    with pytest.raises(InputError, match="expected"):
        figure.main(["--model_path", "any.pth", "--input", str(frames), *options])
