"""The predict command: images, folders and videos, with every output read back; damaged frames."""

import csv
import json
import os
import re
import resource
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from istd.models import build_model
from istd.test_script import predict
from istd.test_script.media.frame_sources import find_sources, is_sequence
from istd.test_script.media.overlay import OverlayVideo, draw_overlay
from istd.test_script.media.thumbnails import CROPS_SIDE, SHEET_TILES, Thumbnails, draw_crop, tile_label
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.detections import find_detections
from istd.utils import checkpoint_paths
from istd.utils.checkpoint import save_checkpoint
from istd.utils.checkpoint_paths import WEIGHTS, shipped_weights
from istd.utils.drawing import PREDICTED
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path
from istd.utils.folder_lock import locked_folder
from istd.utils.images import read_grey
from tests import processes
from tests.reference.local_contrast import LocalContrast

HEIGHT, WIDTH = 48, 70
FROM_CHECKPOINT = Predictor.from_checkpoint


def prepare(frame):
    return torch.from_numpy(frame)[None]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Commands get the stand-in network, whatever the checkpoint."""

    def from_checkpoint(path, device, image_size, code, **options):
        return Predictor(LocalContrast(num_frames=6), prepare, **options)

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)


def frame_at(index):
    """A frame whose 3 x 3 target moves two pixels a frame; uint8."""
    frame = np.full((HEIGHT, WIDTH), 80, np.uint8)
    frame[20:23, 4 + 2 * index : 7 + 2 * index] = 220
    return frame


def write_folder(folder, count=12):
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"frame({index}).png"), frame_at(index))


def write_video(path, count=12, code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 20, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for index in range(count):
        writer.write(cv2.cvtColor(frame_at(index), cv2.COLOR_GRAY2BGR))
    writer.release()


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def run(source, output, *more):
    predict.main(["--model_path", "any.pth", "--input", str(source), "--output_dir", str(output), *more])


def table(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_is_one_sequence_in_numeric_order(tmp_path):
    write_folder(tmp_path / "flight")
    run(tmp_path / "flight", tmp_path / "out")
    predictor = Predictor(LocalContrast(num_frames=6), prepare)
    rows = table(tmp_path / "out" / "detections.csv")
    assert [row["frame"] for row in rows] == [f"frame({index})" for index in range(12)]
    for index, row in enumerate(rows):
        grey = read_grey(tmp_path / "flight" / f"frame({index}).png")
        single = predictor(grey)
        mask = cv2.imread(str(tmp_path / "out" / "masks" / "flight" / f"frame({index}).png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, single.mask[0] * 255)
        ((found,),) = single.detections
        assert (float(row["x"]), float(row["y"])) == (found.x, found.y) == (5 + 2 * index, 21)
        assert float(row["peak_score"]) == pytest.approx(found.peak_score, abs=1e-6)
    saved = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [str(one["x"]) for one in saved["detections"]] == [row["x"] for row in rows]
    assert saved["frames"] == 12 and saved["skipped"] == [] and saved["threshold"] == 0.5

    frames, fps = read_video(tmp_path / "out" / "overlays" / "flight.mp4")
    assert len(frames) == 12 and fps == 25
    assert saved["model"] == "any.pth"
    coco = json.loads((tmp_path / "out" / "detections_coco.json").read_text())
    assert [entry["image_id"] for entry in coco] == list(range(1, 13))
    assert coco[2]["file_name"] == "flight/frame(2)" and coco[2]["bbox"] == [8, 20, 3, 3]
    assert coco[2]["segmentation"]["size"] == [HEIGHT, WIDTH]
    expected = draw_overlay(grey, single.mask[0], single.detections[0], name="frame(11)", tracks=[1])
    assert np.abs(frames[11][..., ::-1].astype(int) - expected).mean() < 4  # mp4 loses a little
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheets" / "flight.png"))
    assert sheet.shape[0] > 2 * HEIGHT and sheet.shape[1] > 6 * 200


def test_a_video_gives_what_its_frames_give(tmp_path, capsys):
    write_video(tmp_path / "clip.avi", code="FFV1")  # lossless
    write_folder(tmp_path / "clip")
    run(tmp_path / "clip.avi", tmp_path / "video", "--threshold", "0.3")
    assert "--range" not in capsys.readouterr().out
    run(tmp_path / "clip", tmp_path / "folder", "--threshold", "0.3", "--range", "0", "100")
    assert "clip: --range has no effect on frames of 8 bits, which are divided by 255" in capsys.readouterr().out
    video, folder = (table(tmp_path / kind / "detections.csv") for kind in ("video", "folder"))
    assert [row.pop("frame") for row in video] == [f"{index:06d}" for index in range(12)]
    assert [row.pop("frame") for row in folder] == [f"frame({index})" for index in range(12)]
    assert video == folder
    assert read_video(tmp_path / "video" / "overlays" / "clip.mp4")[1] == 20


def test_one_image_and_a_folder_of_folders(tmp_path):
    write_folder(tmp_path / "all" / "s2", 3)
    write_folder(tmp_path / "all" / "s10", 2)
    run(tmp_path / "all", tmp_path / "out")
    assert [row["sequence"] for row in table(tmp_path / "out" / "detections.csv")] == ["s2"] * 3 + ["s10"] * 2
    run(tmp_path / "all" / "s2" / "frame(1).png", tmp_path / "one")
    assert (tmp_path / "one" / "masks" / "frame(1).png").exists()
    assert [row["track"] for row in table(tmp_path / "one" / "tracks.csv")] == ["0"]
    assert cv2.imread(str(tmp_path / "one" / "overlays" / "frame(1).png")).shape == (9 * HEIGHT, 9 * WIDTH, 3)


def test_the_default_weights_find_a_target(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Predictor, "from_checkpoint", FROM_CHECKPOINT)
    monkeypatch.chdir(tmp_path)  # the weights are found from anywhere
    frame = np.random.default_rng(0).normal(70, 3, (96, 128))
    frame[40:43, 90:93] = 200
    cv2.imwrite("frame.png", np.rint(frame))
    predict.main(["--input", "frame.png", "--output_dir", "out"])
    file = WEIGHTS / "datransnet.pth"
    assert f"network: weights/{file.name}" in capsys.readouterr().out.splitlines()[0]
    (found,) = table(tmp_path / "out" / "detections.csv")
    assert (float(found["x"]), float(found["y"])) == pytest.approx((91, 41), abs=1)
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["model"] == str(file)


def test_weights_are_named_and_given_once(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), frame_at(0))
    command = ["--input", str(tmp_path / "a.png"), "--output_dir", str(tmp_path / "out")]
    predict.main([*command, "--weights", "sgmp_unet_small"])
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["model"].endswith("sgmp_unet_small.pth")
    predict.main(command)
    listed = ", ".join(shipped_weights())
    assert f"network: weights/datransnet.pth (of {listed}; choose with --weights)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        predict.main([*command, "--weights", "datransnet", "--model_path", "x.pth"])
    assert "argument --model_path: not allowed with argument --weights" in capsys.readouterr().err


def test_a_multi_frame_network_takes_videos_and_folders(tmp_path, monkeypatch):
    """A small SGMP-UNet of random weights, chosen by --weights, finds the same in a video and in its frames."""
    monkeypatch.setattr(Predictor, "from_checkpoint", FROM_CHECKPOINT)
    monkeypatch.setattr(checkpoint_paths, "WEIGHTS", tmp_path)
    torch.manual_seed(0)
    settings = {"model": "sgmp_unet_small", "preset": "local_contrast"}
    shallow = {"depths": (1, 1, 1, 1), "spatial_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)}
    save_checkpoint(tmp_path / "sgmp_unet_small.pth", build_model("sgmp_unet_small", **shallow), settings)
    write_video(tmp_path / "clip.avi", 2, code="FFV1")
    write_folder(tmp_path / "clip", 2)
    rows = []
    for source in ("clip.avi", "clip"):
        out = tmp_path / f"out_{source}"
        options = ["--weights", "sgmp_unet_small", "--threshold", "0.1", "--output_dir", str(out)]
        predict.main(["--input", str(tmp_path / source), *options])
        rows.append([{**row, "frame": ""} for row in table(out / "detections.csv")])
        assert len(list((out / "masks" / "clip").iterdir())) == 2
    assert rows[0] == rows[1] and rows[0]


def test_a_corrupt_image_is_an_error_or_skipped(tmp_path, capsys):
    write_folder(tmp_path / "flight")
    (tmp_path / "flight" / "frame(5).png").write_bytes(b"\x89PNG rubbish")
    with pytest.raises(InputError, match=r"frame\(5\).png.*--skip_bad"):
        run(tmp_path / "flight", tmp_path / "out")
    assert_unfinished(tmp_path / "out", [f"frame({index})" for index in range(5)], "frame(5).png")
    assert "flight: interrupted; 5 frames, 5 detections" in capsys.readouterr().out
    assert len(read_video(tmp_path / "out" / "overlays" / "flight.mp4")[0]) == 5
    run(tmp_path / "flight", tmp_path / "out", "--skip_bad")
    assert "frame(5)" in capsys.readouterr().out
    frames = [row["frame"] for row in table(tmp_path / "out" / "detections.csv")]
    assert frames == [f"frame({index})" for index in range(12) if index != 5]
    (skipped,) = json.loads((tmp_path / "out" / "detections.json").read_text())["skipped"]
    assert skipped["frame"] == "frame(5)" and "frame(5).png" in skipped["reason"]


def test_a_skipped_frame_counts_as_time_in_tracks(tmp_path):
    """A target of 4 px a frame keeps its track: 8 px lie between the frames beside the damaged one."""
    write_folder(tmp_path / "fast", 16)
    for index in range(8):
        (tmp_path / "fast" / f"frame({2 * index}).png").rename(tmp_path / "fast" / f"{index}.png")
        (tmp_path / "fast" / f"frame({2 * index + 1}).png").unlink()
    (tmp_path / "fast" / "4.png").write_bytes(b"rubbish")
    run(tmp_path / "fast", tmp_path / "out", "--skip_bad")
    assert [row["track"] for row in table(tmp_path / "out" / "tracks.csv")] == ["1"] * 7


def test_a_corrupt_frame_within_a_video_is_an_error_or_skipped(tmp_path):
    path = tmp_path / "clip.avi"
    write_video(path, code="MJPG")
    data = bytearray(path.read_bytes())
    frames = [place for place in range(data.index(b"movi"), len(data)) if data[place : place + 4] == b"00dc"][:12]
    data[frames[7] + 8 : frames[8]] = bytes(frames[8] - frames[7] - 8)  # frame 7 is all zeros
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"frame 7 of video.*--skip_bad"):
        run(path, tmp_path / "out")
    run(path, tmp_path / "out", "--skip_bad")
    saved = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry["frame"] for entry in saved["skipped"]] == ["000007"] and saved["frames"] == 11
    names = sorted(file.stem for file in (tmp_path / "out" / "masks" / "clip").iterdir())
    assert names == [f"{index:06d}" for index in range(12) if index != 7]


def test_a_video_without_its_end_is_said(tmp_path):
    path = tmp_path / "clip.avi"
    write_video(path, 40, "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"ends after \d+ frames, 0.\d+ of") as raised:
        run(path, tmp_path / "out")
    count = int(re.search(r"after (\d+)", str(raised.value))[1])
    assert 0 < count < 40
    assert_unfinished(tmp_path / "out", [f"{index:06d}" for index in range(count)], str(raised.value))


def test_what_was_predicted_before_an_error_or_ctrl_c_is_kept(tmp_path, monkeypatch):
    """The first of two folders is complete, and the second is damaged from its first frame on, or interrupted."""
    for name in "ab":
        write_folder(tmp_path / "all" / name, 11)
    damaged = tmp_path / "all" / "b" / "frame(0).png"
    damaged.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"frame\(0\)\.png"):
        run(tmp_path / "all", tmp_path / "out", "--folder_of", "frames")
    names = [f"frame({index})" for index in range(11)]
    assert_unfinished(tmp_path / "out", names, str(damaged))

    def read(path):
        if path.parent.name == "b" and path.stem == "frame(9)":
            raise KeyboardInterrupt
        return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)

    write_folder(tmp_path / "b", 11)
    damaged.write_bytes((tmp_path / "b" / "frame(0).png").read_bytes())
    monkeypatch.setattr("istd.test_script.media.frame_sources.read_pixels", read)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "all", tmp_path / "out", "--batch_size", "4", "--folder_of", "frames", "--min_track", "3")
    assert_unfinished(tmp_path / "out", [*names, *names[:4]], "interrupted")  # the clip of the eighth needs frame 9


def assert_unfinished(folder, names, reason):
    """The results are those of these frames, with a detection in each, and the reason why there are no more."""
    saved = json.loads((folder / "detections.json").read_text())
    assert [row["frame"] for row in table(folder / "detections.csv")] == names and saved["frames"] == len(names)
    assert [row["frame"] for row in saved["detections"]] == names and reason in saved["unfinished"]
    assert len(list((folder / "masks").rglob("*.png"))) == len(names)


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_sources(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="neither an image"):
        find_sources(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="holds no images"):
        find_sources(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(InputError, match="cannot open video"):
        find_sources(tmp_path / "broken.mp4")
    write_folder(tmp_path / "double", 1)
    cv2.imwrite(str(tmp_path / "double" / "frame(0).bmp"), frame_at(0))
    with pytest.raises(InputError, match=r"frame\(0\)\.png have the same name"):
        find_sources(tmp_path / "double")


def test_a_long_stream_holds_few_frames():
    predictor = Predictor(LocalContrast(num_frames=6), prepare)
    frame = np.zeros((256, 320), np.float32)
    tracemalloc.start()
    for index, _ in enumerate(predictor.stream(frame.copy() for _ in range(120))):
        if index == 20:
            early = tracemalloc.get_traced_memory()[0]
    growth = tracemalloc.get_traced_memory()[0] - early
    tracemalloc.stop()
    assert growth < 5 * frame.nbytes


def test_thumbnails_spread_over_a_stream_of_any_length(monkeypatch):
    for count in (1, 10, 30, 500):
        thumbnails = Thumbnails()
        for index in range(count):
            thumbnails.add(str(index), np.zeros((60, 80)), np.zeros((60, 80), bool), [])
        names = [int(label.removesuffix(": no detection")) for label, _ in thumbnails._kept]
        assert len(names) < 2 * SHEET_TILES and names[0] == 0
        assert len(set(np.diff(names))) <= 1 and count - names[-1] <= max(1, count // SHEET_TILES + 1)
        assert thumbnails.sheet().shape[1] >= 240
        with monkeypatch.context() as patch:
            patch.setattr("istd.test_script.media.thumbnails.contact_sheet", lambda tiles, labels, columns: len(tiles))
            assert thumbnails.sheet() == min(len(names), SHEET_TILES)


def test_a_crop_of_a_contact_sheet_enlarges_a_detection_at_the_edge():
    """A crop of 32 px from the frame's corner, six times enlarged; the outline lies just outside the detection."""
    grey, mask = np.full((60, 80), 0.5), np.zeros((60, 80), bool)
    grey[2:4, 3:6], mask[2:4, 3:6] = 0.75, True
    (detection,) = find_detections(mask, np.where(mask, 1.0, -1.0))
    crop = draw_crop(grey, mask, detection, CROPS_SIDE)
    assert crop.shape == (192, 192, 3)
    assert (crop[12:24, 18:36] == 255).all() and (crop[40:, 40:] == 0).all()  # in its own contrast
    ring = np.argwhere((crop == PREDICTED).all(axis=2))
    assert ring.min(axis=0).tolist() == [11, 17] and ring.max(axis=0).tolist() == [24, 36]
    assert tile_label("7", [detection]) == "7: score 0.75"
    assert tile_label("7", [detection] * 3) == "7: 3 detections, highest score 0.75"


def test_unrelated_images_have_pictures_each_and_no_tracks(tmp_path, capsys):
    """Scenes that differ from image to image, or in size; frames are frames where that is said."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    scenes = [2 * rows, 2 * columns, 140 - 2 * rows, 140 - 2 * columns]
    (tmp_path / "set").mkdir()
    for index in range(4):
        image = scenes[index].astype(np.uint8)
        image[20:23, 30:33] = 250
        cv2.imwrite(str(tmp_path / "set" / f"Misc_{index}.png"), image)
    run(tmp_path / "set", tmp_path / "out")
    assert "set: 4 unrelated images" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir()) == [
        f"Misc_{i}.png" for i in range(4)
    ]
    rows = table(tmp_path / "out" / "tracks.csv")
    assert {row["frame"] for row in rows} == {f"Misc_{i}" for i in range(4)} and {row["track"] for row in rows} == {"0"}
    alone = Predictor(LocalContrast(num_frames=6), prepare)(read_grey(tmp_path / "set" / "Misc_1.png"))
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "set" / "Misc_1.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, alone.mask[0] * 255)
    with pytest.raises(InputError, match="is no sequence"):
        run(tmp_path / "set", tmp_path / "out", "--min_track", "2")
    run(tmp_path / "set", tmp_path / "out", "--folder_of", "frames")
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["set.mp4"]
    write_folder(tmp_path / "flight", 3)
    (tmp_path / "both").mkdir()
    for order, name in enumerate(("flight", "set")):
        (tmp_path / "both" / f"{order}_{name}").symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=r"--min_track 2: 1_set is no sequence; .*\(--folder_of frames\)"):
        run(tmp_path / "both", tmp_path / "none", "--min_track", "2")
    assert not (tmp_path / "none").exists()
    random = np.random.default_rng(0)
    (tmp_path / "sky").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "sky" / f"{index}.png"), random.integers(60, 70, (HEIGHT, WIDTH), np.uint8))
    assert is_sequence(sorted((tmp_path / "flight").iterdir())) and is_sequence(sorted((tmp_path / "sky").iterdir()))
    cv2.imwrite(str(tmp_path / "flight" / "frame(3).png"), np.zeros((20, 20), np.uint8))
    assert not is_sequence(sorted((tmp_path / "flight").iterdir()))


def test_a_rerun_leaves_nothing_of_the_old_input_and_touches_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "long", 5)
    write_folder(tmp_path / "short", 2)
    predict.main(["--model_path", "any.pth", "--input", "long"])  # into predict/long
    run("short", "predict/long")
    assert {path.name for path in Path("predict/long/overlays").iterdir()} == {"short.mp4"}
    assert {path.name for path in Path("predict/long/masks").iterdir()} == {"short"}
    assert len(list(Path("predict/long/masks/short").iterdir())) == 2
    (tmp_path / "truth" / "masks").mkdir(parents=True)
    with pytest.raises(InputError, match="truth has masks, which predict did not write"):
        run("short", "truth")
    (tmp_path / "truth" / "masks").rename(tmp_path / "truth" / "labels")
    (tmp_path / "truth" / "run.json").write_text('{"sessions": []}')  # of a training
    with pytest.raises(InputError, match=r"truth has run\.json, which predict did not write"):
        run("short", "truth")
    with locked_folder("predict/long"), pytest.raises(InputError, match="another command is writing to predict/long"):
        run("short", "predict/long")
    cv2.imwrite("...png", frame_at(0))  # whose stem is ..
    predict.main(["--model_path", "any.pth", "--input", "...png"])
    assert {path.name for path in tmp_path.iterdir()} == {"predict", "long", "short", "truth", "...png"}


def test_an_input_among_the_results_is_kept(tmp_path):
    write_folder(tmp_path / "flight", 2)
    run(tmp_path / "flight", tmp_path / "out")
    with pytest.raises(InputError, match=r"flight.mp4 is a result in .*out, which would be removed"):
        run(tmp_path / "out" / "overlays" / "flight.mp4", tmp_path / "out")
    assert (tmp_path / "out" / "overlays" / "flight.mp4").exists()


def test_results_beside_the_input_are_no_sequences_of_the_next_run(tmp_path):
    write_folder(tmp_path / "a", 2)
    for _ in range(2):
        run(tmp_path, tmp_path)
        assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a"]


def test_folders_of_unrelated_images_keep_images_of_one_name_apart(tmp_path):
    for folder in ("a", "b"):
        write_folder(tmp_path / "set" / folder, 2)
    run(tmp_path / "set", tmp_path / "out", "--folder_of", "images")
    pictures = {path.relative_to(tmp_path / "out" / "overlays") for path in (tmp_path / "out").rglob("overlays/*/*")}
    assert pictures == {Path(folder) / f"frame({index}).png" for folder in "ab" for index in range(2)}


def test_maps_that_are_not_finite_are_an_error(tmp_path, monkeypatch):
    write_folder(tmp_path / "flight", 2)
    monkeypatch.setattr(LocalContrast, "forward", lambda self, clip: clip[:, 0] * float("nan"))
    with pytest.raises(InputError, match=r"the map of frame frame\(0\) is not finite"):
        run(tmp_path / "flight", tmp_path / "out")


def test_an_overlay_that_cannot_grow_has_no_final_name(tmp_path):
    """The system's limit on the size of files, in a process of its own, since it holds for all of it."""
    video = tmp_path / "out" / "v.mp4"
    video.parent.mkdir()
    status, said = processes.run(tmp_path / "said.txt", run_main, partial(write_large_video, video))
    assert status == 2 and "cannot write" in said and len(said.splitlines()) == 1, said
    assert not list(video.parent.iterdir())


def write_large_video(path):
    with atomic_path(path) as file, OverlayVideo(file, 25) as video:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        random = np.random.default_rng(0)
        for _ in range(20):
            video.add(random.integers(0, 256, (240, 320, 3), np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"fr\xff\x1b[2J")
    (tmp_path / "odd").mkdir()
    for index in range(2):
        (tmp_path / "odd" / f"{name}{index}.png").write_bytes(cv2.imencode(".png", frame_at(index))[1].tobytes())
    run(tmp_path / "odd", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "odd" / f"{name}0.png").exists()
    assert table(tmp_path / "out" / "detections.csv")[0]["frame"] == "fr\\udcff\\x1b[2J0"


def test_pictures_of_other_sizes_are_fitted_into_the_video(tmp_path):
    video = OverlayVideo(tmp_path / "v.mp4", 10)
    for size in ((48, 71), (96, 20), (48, 71)):
        video.add(np.full((*size, 3), 200, np.uint8))
    video.close()
    frames, _ = read_video(tmp_path / "v.mp4")
    assert [frame.shape for frame in frames] == [(48, 72, 3)] * 3
    assert frames[1][:, :8].mean() > 150 and frames[1][:, 30:].mean() < 20


def test_real_thermal_videos(tmp_path):
    data = Path(os.environ.get("ISTD_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    source = data / "videos" / "IR_DRONE_117.mp4"
    if not source.exists():
        pytest.skip("needs the real videos")
    run(source, tmp_path, "--threshold", "0.9")
    assert len(list((tmp_path / "masks" / "IR_DRONE_117").iterdir())) == 304
    frames, fps = read_video(tmp_path / "overlays" / "IR_DRONE_117.mp4")
    assert len(frames) == 304 and fps == 30 and frames[0].shape == (512, 640, 3)


def test_raw_frames_have_one_range_which_is_said_and_recorded(tmp_path, capsys):
    for index in range(6):
        raw = 7000 + 4 * frame_at(index).astype(np.uint16)
        raw[5, 5] = 16383  # stuck
        (tmp_path / "raw").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "raw" / f"{index}.png"), raw)
    run(tmp_path / "raw", tmp_path / "out")
    rows = table(tmp_path / "out" / "detections.csv")
    assert [float(row["x"]) for row in rows] == [5 + 2 * index for index in range(6)], "all found, and nothing else"
    assert "raw: stored levels 7320 to 7880 become 0 to 1 (one range for the sequence)" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert (saved["range"], saved["ranges"]) == ("sequence", {"raw": [7320, 7880]})
    run(tmp_path / "raw", tmp_path / "other", "--range", "7000", "8020")
    saved = json.loads((tmp_path / "other" / "detections.json").read_text())
    assert (saved["range"], saved["ranges"]) == ([7000, 8020], {"raw": [7000, 8020]})
    capsys.readouterr()
    run(tmp_path / "raw", tmp_path / "other", "--range", "sequence", "--folder_of", "images")
    assert "no effect" not in capsys.readouterr().out, "unrelated raw images have a range each"
    with pytest.raises(InputError, match="two numbers LOW HIGH"):
        run(tmp_path / "raw", tmp_path / "none", "--range", "8020", "7000")
