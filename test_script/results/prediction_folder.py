"""The output folder of `predict`, and its tables, which are written frame by frame."""

import csv
import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from istd.test_script.predictor.detections import DETECTION_COLUMNS, Detection, detection_row
from istd.test_script.results.coco_results import coco_entries
from istd.test_script.results.run_folder import RUN, remove_results
from istd.test_script.results.stream_tracks import TRACK_COLUMNS, track_row
from istd.utils.errors import InputError
from istd.utils.files import csv_cells, open_atomic, write_json
from istd.utils.folder_lock import locked_folder
from istd.utils.names import printable
from istd.utils.provenance import provenance

COMMAND = "predict"  # in `RUN`, which is written first and marks a folder of `predict`
TABLES = ("detections.csv", "tracks.csv", "detections.json", "detections_coco.json")
LATENCY_COLUMNS = ("sequence", "frame", "latency_ms")
MAX_SUMMARIZED = 100_000  # latest frames of a live input, which bounds memory
RESULTS = ("masks", "overlays", "contact_sheets", "latency.csv", *TABLES, RUN)


@contextmanager
def prediction_folder(folder: Path, run: dict[str, Any]) -> Iterator["DetectionFiles"]:
    """Lock `folder` for this run, remove the results of an earlier run, and yield its tables.

    The tables appear when the block succeeds. run.json receives `run` and its provenance. Raises `InputError` where
    another command has locked the folder, or it has results that `predict` did not write.
    """
    with locked_folder(folder), ExitStack() as stack:
        present = [name for name in RESULTS if (folder / name).exists()]
        if present and not is_prediction(folder):
            listing = ", ".join(present)
            raise InputError(f"{folder} has {listing}, which predict did not write; choose another --output_dir")
        remove_results(folder, present)
        write_json(folder / RUN, {"kind": COMMAND, **run, **provenance()})
        files = DetectionFiles(*(stack.enter_context(open_atomic(folder / name)) for name in TABLES))
        yield files
        files.finish(run)


def is_prediction(folder: Path) -> bool:
    """Whether `predict` wrote this folder, by its run.json, or in earlier versions by the start of detections.json."""
    try:
        if (folder / RUN).exists():
            return json.loads((folder / RUN).read_text(encoding="utf-8")).get("kind") == COMMAND
        with open(folder / "detections.json", encoding="utf-8") as file:
            return file.read(14) == '{"detections":'
    except (OSError, ValueError, AttributeError):
        return False


class DetectionFiles:
    """detections.csv, tracks.csv, detections.json and detections_coco.json of a run."""

    def __init__(self, table: TextIO, tracks: TextIO, objects: TextIO, coco: TextIO):
        self.count, self.frames = 0, 0  # of detections, and of frames
        self.facts: dict[str, Any] = {}  # for the end of detections.json, beside the settings of the run
        self._csv, self._tracks = (csv.writer(file, lineterminator="\n") for file in (table, tracks))
        self._json, self._coco = objects, coco
        self._csv.writerow(DETECTION_COLUMNS)
        self._tracks.writerow(TRACK_COLUMNS)
        self._json.write('{"detections": [')
        self._coco.write("[")

    def add_frame(
        self, sequence: str, name: str, mask: np.ndarray, detections: list[Detection], tracks: list[int]
    ) -> None:
        """Append the detections of the next frame, whose `mask` is bool [H, W], and the numbers of their tracks."""
        self.frames += 1
        entries = coco_entries(self.frames, f"{printable(sequence)}/{printable(name)}", detections, mask)
        for detection, track, entry in zip(detections, tracks, entries, strict=True):
            row = detection_row(sequence, name, detection)
            self._csv.writerow(csv_cells(row))
            self._tracks.writerow(csv_cells(track_row(row, track)))
            start = ",\n" if self.count else "\n"
            self._json.write(start + json.dumps(dict(zip(DETECTION_COLUMNS, row, strict=True))))
            self._coco.write(start + json.dumps(entry))
            self.count += 1

    def finish(self, run: dict[str, Any]) -> None:
        """Close the lists; the settings of the run follow in detections.json."""
        self._json.write("],\n" + json.dumps(run | self.facts, indent=1).removeprefix("{\n"))
        self._coco.write("\n]\n")


class Latency:
    """Writes latency.csv, the time of each live frame from when it was read to when its detections are known."""

    def __init__(self, table: TextIO):
        self._csv = csv.writer(table, lineterminator="\n")
        self._csv.writerow(LATENCY_COLUMNS)
        self._last: deque[float] = deque(maxlen=MAX_SUMMARIZED)

    def add(self, sequence: str, frame: str, seconds: float) -> None:
        self._csv.writerow(csv_cells([sequence, frame, f"{1000 * seconds:.1f}"]))
        self._last.append(1000 * seconds)

    def summary(self) -> str:
        """Median and 95th percentile in words."""
        median, high = np.percentile(self._last, (50, 95))
        return f"latency per frame: median {median:.1f} ms, 95th percentile {high:.1f} ms"
