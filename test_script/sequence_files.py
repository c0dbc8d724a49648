"""The files that `predict` writes for a sequence, frame by frame: masks, tables, overlays, and the contact sheet."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from istd.test_script.media.frame_sources import UNRELATED, Source
from istd.test_script.media.overlay import OverlayVideo, Trails, draw_overlay
from istd.test_script.media.thumbnails import Thumbnails
from istd.test_script.predictor import FrameResult
from istd.test_script.results.prediction_folder import DetectionFiles
from istd.test_script.results.result_files import background_calls, frame_file, write_mask, write_png
from istd.utils.files import atomic_path


@contextmanager
def sequence_writer(
    source: Source, output: Path, tables: DetectionFiles, fps: float, subfolders: bool
) -> Iterator[Callable[[str, FrameResult, list[int]], None]]:
    """Yield `write(name, result, tracks)` for the frames in order, which works in the background.

    A sequence has an overlay video of `fps`; each of unrelated images has a picture, with `subfolders` in a folder
    named after its source. The contact sheet is written when the block succeeds.
    """
    unrelated, thumbnails, trails = source.kind in UNRELATED, Thumbnails(), Trails()
    masks, overlays = output / "masks", output / "overlays"
    with ExitStack() as stack:
        if not unrelated:
            path = stack.enter_context(atomic_path(overlays / f"{source.name}.mp4"))
            video = stack.enter_context(OverlayVideo(path, fps))

        def write(name: str, result: FrameResult, tracks: list[int]) -> None:
            tracks = [0] * len(tracks) if unrelated else tracks
            write_mask(frame_file(masks, None if source.kind == "image" else source.name, name), result.mask)
            tables.add_frame(source.name, name, result.mask, result.detections, tracks)
            paths = () if unrelated else trails.add(result.detections, tracks)
            picture = draw_overlay(result.frame, result.mask, result.detections, paths, tracks, name)
            thumbnails.add(name, result.frame, result.mask, result.detections)
            if unrelated:
                write_png(frame_file(overlays, source.name if subfolders else None, name), picture)
            else:
                video.add(picture)

        yield partial(stack.enter_context(background_calls()), write)
    write_png(output / "contact_sheets" / f"{source.name}.png", thumbnails.sheet())
