"""Live inputs: images through a pipe, streams that OpenCV opens, latency, and Ctrl-C."""

import csv
import io
import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from istd.test_script import predict
from istd.test_script.media import image_stream
from istd.test_script.media.frame_sources import find_sources
from istd.test_script.media.image_stream import split_images
from istd.test_script.predictor import Predictor
from istd.utils import image_scan
from istd.utils.errors import InputError
from tests.reference.local_contrast import LocalContrast

HEIGHT, WIDTH = 40, 48


def prepare(frame):
    return torch.from_numpy(frame)[None]


def frame_at(index, depth=np.uint8):
    """A frame whose 3 x 3 target moves two pixels a frame."""
    frame = np.full((HEIGHT, WIDTH), 80, depth)
    frame[20:23, 4 + 2 * index : 7 + 2 * index] = 220
    return frame


def encoded(index, suffix=".png", depth=np.uint8):
    return cv2.imencode(suffix, frame_at(index, depth))[1].tobytes()


class Trickle(io.BytesIO):
    """A stream that gives few bytes at a time, as a pipe may."""

    def read1(self, size):
        return super().read1(min(size, 7))


def with_thumbnail(jpg):
    """The JPEG with an application segment that holds another one."""
    thumbnail = encoded(0, ".jpg")
    return jpg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpg[2:]


def test_images_are_split_as_they_come():
    progressive = cv2.imencode(".jpg", frame_at(3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    images = [encoded(0), encoded(1, ".jpg"), with_thumbnail(encoded(2, ".jpg")), progressive]
    images.append(encoded(4, ".png", np.uint16))
    for stream in (io.BytesIO, Trickle):
        assert list(split_images(stream(b"".join(images)))) == images
    assert list(split_images(io.BytesIO(images[0] + images[1][:-9]))) == [images[0], images[1][:-9]]
    with pytest.raises(InputError, match=r"bytes b'RIFF.*ffmpeg -f image2pipe"):
        list(split_images(io.BytesIO(b"RIFF and so on" + images[0])))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.9])
def test_an_image_that_is_cut_off_swallows_none_that_follow(suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    good = cv2.imencode(suffix, noise)[1].tobytes()
    cut = good[: int(kept * len(good))]
    for stream in (io.BytesIO, Trickle):
        pieces = list(split_images(stream(good * 5 + cut + good * 40)))
        assert pieces.count(good) == 45 and b"".join(pieces) == good * 5 + cut + good * 40
        assert len(pieces) == 46


def test_stray_bytes_and_wrong_lengths_end_at_the_next_image():
    png, jpg = encoded(0), encoded(1, ".jpg")
    long = png[:33] + b"\x7f\xff\xff\xff" + png[37:]  # of a chunk, which claims 2 GB
    assert list(split_images(io.BytesIO(png + b"\n" + jpg + long + png))) == [png, b"\n", jpg, long, png]
    assert list(split_images(io.BytesIO(png + b"\n"))) == [png, b"\n"]


def test_no_byte_is_scanned_twice(monkeypatch):
    """A large image in small pieces: twice the size takes twice the steps."""
    searched, marker = [], image_scan.JPG_MARKER

    class Marker:
        def search(self, data, at):
            searched.append(len(data) - at)
            return marker.search(data, at)

    monkeypatch.setattr(image_scan, "JPG_MARKER", Marker())
    monkeypatch.setattr(image_stream, "CHUNK", 100)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    image = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 99])[1].tobytes()
    assert list(split_images(io.BytesIO(image))) == [image]
    assert len(image) > 20_000 and sum(searched) < 1.1 * len(image)


def test_a_frame_is_given_out_when_its_clip_is_complete():
    """Six frames, of which the target is the fourth: two further ones are needed; the end repeats the last frame."""
    read, progress = [], []

    def frames():
        for index in range(7):
            read.append(index)
            yield frame_at(index).astype(np.float32) / 255

    predictor = Predictor(LocalContrast(num_frames=6), prepare)
    live = []
    for result in predictor.stream(frames(), live=True):
        live.append(result)
        progress.append(len(read))
    assert progress == [3, 4, 5, 6, 7, 7, 7]
    for ours, theirs in zip(live, predictor.stream(frames()), strict=True):
        np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-6)


@pytest.fixture
def stand_in(monkeypatch):
    def from_checkpoint(path, device, image_size, code, **options):
        return Predictor(LocalContrast(num_frames=6), prepare, **options)

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)


def run(source, output, *more):
    predict.main(["--model_path", "any.pth", "--input", str(source), "--output_dir", str(output), *more])


def table(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def pipe(monkeypatch):
    """Standard input is a pipe; returns its writing end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        yield os.fdopen(writing, "wb", buffering=0)


def test_a_pipe_gives_detections_tracks_and_latencies(stand_in, pipe, tmp_path, capsys):
    """Of eight images one is damaged, and the last one is cut off: both are reported and left out."""

    def write():
        with pipe:
            for index in range(8):
                data = encoded(index)
                pipe.write(data[:40] + bytes(20) + data[60:] if index == 3 else data[:-20] if index == 7 else data)

    writer = threading.Thread(target=write)
    writer.start()
    run("-", tmp_path)
    writer.join()
    expected = [(f"{index:06d}", str(float(5 + 2 * index))) for index in (0, 1, 2, 4, 5, 6)]
    assert [(row["frame"], row["x"]) for row in table(tmp_path / "detections.csv")] == expected
    assert {row["track"] for row in table(tmp_path / "tracks.csv")} == {"1"}
    latencies = table(tmp_path / "latency.csv")
    assert [(row["sequence"], row["frame"]) for row in latencies] == [("pipe", frame) for frame, _ in expected]
    assert all(0 < float(row["latency_ms"]) < 60_000 for row in latencies)
    values = [float(row["latency_ms"]) for row in latencies]
    printed = capsys.readouterr().out
    median, high = np.percentile(values, (50, 95))
    shown = [float(word) for word in printed.split("latency per frame: ")[1].split()[1:6:4]]
    assert shown == pytest.approx([median, high], abs=0.2)
    skipped = json.loads((tmp_path / "detections.json").read_text())["skipped"]
    assert [one["frame"] for one in skipped] == ["000003", "000007"]
    assert len(list((tmp_path / "masks" / "pipe").iterdir())) == 6
    assert (tmp_path / "overlays" / "pipe.mp4").stat().st_size > 0


def test_ctrl_c_ends_a_live_input_with_everything_written(stand_in, tmp_path, monkeypatch, capsys):
    class Interrupted(io.BytesIO):
        def read1(self, size):
            data = super().read1(size)
            if not data:
                raise KeyboardInterrupt
            return data

    stream = Interrupted(b"".join(map(encoded, range(10))))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
    run("-", tmp_path, "--min_track", "3")
    frames = [f"{index:06d}" for index in range(8)]  # the clips of the last two were not complete
    assert [row["frame"] for row in table(tmp_path / "detections.csv")] == frames
    assert [row["frame"] for row in table(tmp_path / "latency.csv")] == frames
    assert json.loads((tmp_path / "detections.json").read_text())["frames"] == 8
    assert "interrupted" in capsys.readouterr().out


def test_a_late_error_of_a_live_input_comes_after_everything_is_written(stand_in, tmp_path, monkeypatch):
    """Ten frames, and then one of another size, which a clip of six cannot hold."""
    other = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
    stream = io.BytesIO(b"".join([*map(encoded, range(10)), other]))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
    with pytest.raises(InputError, match="one clip"):
        run("-", tmp_path)
    frames = [f"{index:06d}" for index in range(8)]
    assert [row["frame"] for row in table(tmp_path / "detections.csv")] == frames
    assert json.loads((tmp_path / "detections.json").read_text())["frames"] == 8
    assert (tmp_path / "overlays" / "pipe.mp4").stat().st_size > 0


def test_a_stream_that_opencv_opens(stand_in, tmp_path):
    """A video over HTTP, whose address has passwords that no file and no file name repeats."""
    folder = tmp_path / "served"
    folder.mkdir()
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 20, (WIDTH, HEIGHT))
    for index in range(5):
        writer.write(cv2.cvtColor(frame_at(index), cv2.COLOR_GRAY2BGR))
    writer.release()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run(f"http://me:secret@127.0.0.1:{server.server_port}/clip.avi?pwd=secret", tmp_path / "out")
        server.shutdown()
    rows = table(tmp_path / "out" / "detections.csv")
    assert {row["sequence"] for row in rows} == {"127_0_0_1_clip_avi"}
    assert [float(row["x"]) for row in rows] == [5 + 2 * index for index in range(5)]
    assert len(table(tmp_path / "out" / "latency.csv")) == 5
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 8 and not any(b"secret" in path.read_bytes() or "secret" in path.name for path in written)
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["input"].endswith("/clip.avi")


def test_no_message_repeats_the_password_of_a_camera(monkeypatch):
    """A camera that gives two frames, and a video that announces nine: OpenCV alone gets the address with password."""
    opened, frames, facts = [], [frame_at(0)[..., None].repeat(3, 2)] * 2, {cv2.CAP_PROP_FPS: 25}

    def capture(address):
        opened.append(address)
        read = iter([*((True, frame) for frame in frames), (False, None)])
        get = lambda fact: facts.get(fact, 0)  # noqa: E731
        return SimpleNamespace(isOpened=lambda: True, get=get, read=lambda: next(read), release=lambda: None)

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    for count, complaints in ((0, 1), (9, 1), (4, 0), (2, 0)):  # a camera has no count, and a count may be an estimate
        facts[cv2.CAP_PROP_FRAME_COUNT] = count
        (source,), reasons = find_sources("rtsp://me:sec@ret@host/live/1?pwd=secret"), []
        assert len(list(source.frames(lambda *reason: reasons.append(reason)))) == 2  # noqa: B023
        assert opened.pop() == "rtsp://me:sec@ret@host/live/1?pwd=secret" and source.name == "host_live_1"
        reason = "rtsp://host/live/1 gave no further frame after 2: it ended, or was cut off"
        assert reasons == [("000002", reason)] * complaints
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: SimpleNamespace(isOpened=lambda: False))
    with pytest.raises(InputError, match="cannot open camera rtsp://host/live;"):
        find_sources("rtsp://me:secret@host/live")


def test_live_inputs_that_cannot_be_read(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(InputError, match="from a pipe"):
        find_sources("-")
    with pytest.raises(InputError, match="cannot open camera 97"):
        find_sources("97")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
    with pytest.raises(InputError, match="no frame of pipe"):
        run("-", tmp_path)
    assert not (tmp_path / "detections.csv").exists()
