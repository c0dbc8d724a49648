"""Video files through PyAV: levels, depth, rotation, frame numbers, and what damaged files give."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from istd.utils import video
from istd.utils.errors import InputError
from istd.utils.video import LIMITED_TO_FULL, count_frames, grey_levels, read_frames, sample_frames, video_facts

SIDE, FPS = 64, 25
GREY_START = 16  # of the luma of `picture`


def picture(index, dtype=np.uint8, step=1):
    """A ramp of 64 levels that begins a level higher in each frame."""
    return np.tile((GREY_START + index + np.arange(SIDE)) * step, (SIDE, 1)).astype(dtype)


def write(path, codec, pixels, count=12, times=None, options=None, container=None, **more):
    """Write the luma `picture(index)` of each frame as it is; chroma is neutral. `times`: of the frames, in 1 / FPS."""
    deep = "10" in pixels or "16" in pixels
    neutral = 512 if deep else 128
    with av.open(path if hasattr(path, "write") else str(path), "w", options=container or {}, **more) as output:
        stream = output.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixels
        for index in range(count):
            frame = av.VideoFrame(SIDE, SIDE, pixels)
            for number, plane in enumerate(frame.planes):
                rows = np.full((plane.height, plane.line_size // (1 + deep)), neutral, np.uint16 if deep else np.uint8)
                if number == 0:
                    rows[:, :SIDE] = picture(index, rows.dtype, 4 if "10" in pixels else 300 if deep else 1)
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = times[index] if times else index, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def read(path):
    """The frames by number, and the numbers and reasons of those that are reported."""
    bad = []
    frames = list(read_frames(path, lambda number, reason: bad.append((number, reason))))
    assert len(dict(frames)) == len(frames), "no frame comes twice"
    return dict(frames), bad


def packets(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    ("pixels", "dtype", "step"), [("gray10le", "u2", 4), ("gray16le", "u2", 300), ("gray", "u1", 1)]
)
def test_grey_of_any_depth_comes_as_stored(tmp_path, pixels, dtype, step):
    write(tmp_path / "clip.mkv", "ffv1", pixels, 3)
    frames, bad = read(tmp_path / "clip.mkv")
    assert not bad and list(frames) == [0, 1, 2]
    for index, frame in frames.items():
        assert frame.dtype == dtype
        np.testing.assert_array_equal(frame, picture(index, dtype, step))


def test_the_luma_of_10_bits_keeps_its_levels(tmp_path):
    write(tmp_path / "clip.mp4", "libx264", "yuv420p10le", 3, options={"qp": "0"})
    frames, _ = read(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(frames[2], picture(2, np.uint16, 4))


def test_luma_of_8_bits_in_the_limited_range_is_spread_over_all_levels(tmp_path):
    """16 is black and 235 is white, as OpenCV has it to the last level; luma in the full range stays as it is."""
    assert [LIMITED_TO_FULL[level] for level in (0, 16, 17, 126, 235, 255)] == [0, 0, 1, 128, 255, 255]
    write(tmp_path / "clip.mkv", "ffv1", "yuv420p", 2)
    frames, _ = read(tmp_path / "clip.mkv")
    np.testing.assert_array_equal(frames[1], (picture(1).astype(int) - 16) * 255 // 219)
    colour = cv2.VideoCapture(str(tmp_path / "clip.mkv")).read()[1]
    np.testing.assert_array_equal(frames[0], cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))

    full = av.VideoFrame.from_ndarray(picture(0), "gray").reformat(format="yuvj420p")
    np.testing.assert_array_equal(grey_levels(full), picture(0))
    marked = av.VideoFrame.from_ndarray(np.full((6, 4), 70, np.uint8), "yuv420p")
    assert grey_levels(marked).tolist() == [[62] * 4] * 4
    marked.color_range = 2
    assert grey_levels(marked).tolist() == [[70] * 4] * 4


def test_colour_becomes_luma_at_its_depth():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert grey_levels(av.VideoFrame.from_ndarray(red, "rgb24")).tolist() == [[60, 60]] * 2  # 0.299 of it
    deep = grey_levels(av.VideoFrame.from_ndarray(red.astype(np.uint16) * 100, "rgb48le"))
    assert deep.dtype == np.uint16 and deep.tolist() == [[5980, 5980]] * 2
    big_endian = av.VideoFrame.from_ndarray(picture(0, np.uint16, 300), "gray16le").reformat(format="gray16be")
    np.testing.assert_array_equal(grey_levels(big_endian), picture(0, np.uint16, 300))


# the point (x, y) is shown at (a x + c y, b x + d y); and the edge that the right one, which is the brightest, becomes
BOTTOM, LEFT, TOP = np.s_[-1], np.s_[:, 0], np.s_[0]


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "edge"), [(0, 1, -1, 0, BOTTOM), (-1, 0, 0, -1, LEFT), (0, -1, 1, 0, TOP)]
)
def test_a_rotated_video_is_turned_as_it_is_shown(tmp_path, a, b, c, d, edge):
    path = tmp_path / "clip.mp4"
    write(path, "libx264", "yuv420p", 1, options={"qp": "0"})
    upright = read(path)[0][0]
    data = bytearray(path.read_bytes())
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    start = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)
    turned = read(path)[0][0]
    expected, (y, x) = np.zeros_like(upright), np.indices(upright.shape)
    expected[(b * x + d * y - (b + d < 0)) % SIDE, (a * x + c * y - (a + c < 0)) % SIDE] = upright
    np.testing.assert_array_equal(turned, expected)
    assert (turned[edge] == upright.max()).all()


class Pipe:
    """Takes what is written without a way back, so that no header can be completed at the end."""

    def __init__(self, path):
        self._file = path.open("wb")

    def write(self, data):
        return self._file.write(data)

    def close(self):
        self._file.close()


@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx"), ("matroska", "ffv1"), ("mpegts", "mpeg2video")])
def test_a_video_from_a_pipe_states_no_length_and_is_whole(tmp_path, form, codec):
    path, pipe = tmp_path / "clip.mkv", Pipe(tmp_path / "clip.mkv")
    write(pipe, codec, "yuv420p", format=form)
    pipe.close()
    frames, bad = read(path)
    assert list(frames) == list(range(12)) and not bad
    assert count_frames(path) == 12 and video_facts(path)[1] == FPS
    assert (video_facts(path)[0] is None) == (form != "mpegts")  # whose last time stamp can be looked up
    assert len(list(sample_frames(path))) == 12


def test_frames_of_varying_rate_are_numbered_by_their_order(tmp_path):
    write(tmp_path / "clip.mkv", "ffv1", "gray", times=[index * index for index in range(12)])
    frames, bad = read(tmp_path / "clip.mkv")
    assert list(frames) == list(range(12)) and not bad
    assert count_frames(tmp_path / "clip.mkv") == 12


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2"}])
def test_hidden_frames_of_a_trimmed_video_do_not_count(tmp_path, options):
    """A copy that begins 12 frames later still holds the frames from the key frame on, as FFmpeg's -ss makes it."""
    write(tmp_path / "whole.mp4", "mpeg4", "yuv420p", 30, options=options)
    path = tmp_path / "trimmed.mp4"
    keep_times = {"avoid_negative_ts": "disabled"}
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(path), "w", options=keep_times) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(12 / FPS / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                output.mux(packet)
    assert video_facts(path)[0] == 30
    assert count_frames(path) == 18 and list(read(path)[0]) == list(range(18))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_samples_are_the_frames_at_their_places(tmp_path, suffix):
    """Forty frames with a key frame in ten: sixteen of them, spread evenly, of which most follow a key frame."""
    path = tmp_path / f"clip{suffix}"
    write(path, "libx264", "yuv420p10le", 40, options={"qp": "0", "g": "10"})
    starts = [int(frame[0, 0]) // 4 - GREY_START for frame in sample_frames(path)]
    assert starts == [index * 40 // 16 for index in range(16)]


def test_a_frame_that_cannot_be_decoded_is_reported_by_its_number(tmp_path):
    """Also with B frames, which are stored in another order than shown, and where the rate varies."""
    path = tmp_path / "clip.mp4"
    times = [index * index // 4 + index for index in range(12)]
    write(path, "mpeg4", "yuv420p", times=times, options={"bf": "2"})
    sound, _ = read(path)
    data = bytearray(path.read_bytes())
    start, size = packets(path)[2]  # the first B frame, the second to be shown
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    frames, bad = read(path)
    assert bad == [(1, f"frame 1 of video {path} cannot be decoded")]
    assert list(frames) == [0, *range(2, 12)]
    for index, frame in frames.items():
        np.testing.assert_array_equal(frame, sound[index])


@pytest.mark.parametrize(("codec", "threads"), [("mpeg4", 1), ("libx264", 8)])
def test_a_last_frame_that_cannot_be_decoded_is_reported(tmp_path, monkeypatch, codec, threads):
    """Where several threads decode, FFmpeg drops the error, and frames before it."""
    monkeypatch.setattr(video, "cores_of_process", lambda: threads)
    path = tmp_path / "clip.mp4"
    write(path, codec, "yuv420p", 6)
    start, size = packets(path)[-1]
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    frames, bad = read(path)
    assert list(frames) == [0, 1, 2, 3, 4] and bad == [(5, f"frame 5 of video {path} cannot be decoded")]


def test_a_frame_that_is_damaged_within_is_reported(tmp_path):
    """A flipped byte in the middle of a frame, which its decoder conceals; nothing refers to that frame."""
    path = tmp_path / "clip.mp4"
    write(path, "libx264", "yuv420p", 12, options={"qp": "10", "g": "1"})
    data = bytearray(path.read_bytes())
    start, size = packets(path)[7]
    data[start + size // 2] ^= 0xFF
    path.write_bytes(data)
    frames, bad = read(path)
    assert bad == [(7, f"frame 7 of video {path} is damaged")]
    assert list(frames) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_a_video_that_is_cut_off_is_said(tmp_path):
    for suffix, codec, options in ((".mp4", "libx264", {"movflags": "faststart"}), (".mkv", "ffv1", {})):
        path = tmp_path / f"clip{suffix}"
        write(path, codec, "yuv420p", 40, options={"g": "1"}, container=options)
        data, (start, size) = path.read_bytes(), packets(path)[20]
        for end in (start, start + size // 2):
            path.write_bytes(data[:end])
            frames, bad = read(path)
            ((number, reason),) = bad
            assert number == 20 and "ends after 20 frames, 0.8" in reason and "of 1.60 s; its end is missing" in reason
            assert list(frames) == list(range(20))
            assert 20 <= count_frames(path) <= 21, "half a frame may count"
    (tmp_path / "clip.mp4").write_bytes(data[:40])
    with pytest.raises(InputError, match="cannot open video"):
        read(tmp_path / "clip.mp4")


def add_sound(path, seconds):
    """The streams of a video, copied to a file of the same format that has silence beside it."""
    target = path.with_stem("sound")
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0])
        audio = output.add_stream("aac", rate=8000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * seconds), np.float32), "fltp", "mono")
        silence.rate = 8000
        output.mux(audio.encode(silence))
        output.mux(audio.encode())
    return target


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_goes_on_is_no_missing_end(tmp_path, suffix):
    write(tmp_path / f"clip{suffix}", "mpeg4", "yuv420p")
    frames, bad = read(add_sound(tmp_path / f"clip{suffix}", 3))
    assert len(frames) == 12 and not bad


def test_what_is_no_video_is_refused(tmp_path):
    write(tmp_path / "clip.mp4", "libx264", "yuv420p", 1)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "unknown.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    for path in (tmp_path / "unknown.mp4", sound):
        with pytest.raises(InputError, match=f"cannot open video {path}: it holds no video that PyAV can decode"):
            video_facts(path)
    with pytest.raises(InputError, match=r"cannot open video none.mp4: No such file or directory; check the path"):
        video_facts(Path("none.mp4"))


def test_names_with_colons_and_without_utf8_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("clip.mkv", "ffv1", "gray", 1)
    for name in ("a:b.mkv", b"\xff.mkv".decode(errors="surrogateescape")):
        path = Path("clip.mkv").rename(name)
        assert count_frames(path) == 1 and list(read(path)[0]) == [0]
        path.rename("clip.mkv")
