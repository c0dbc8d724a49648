"""Result files: masks, score maps and tables, written in the background; no file is ever seen half written."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from istd.utils.files import renamed_path, write_csv
from istd.utils.images import encode_png
from istd.utils.metrics import MetricAccumulator

SCORE_LEVELS = 65535  # of a 16-bit png: the level is round(probability * 65535)
QUEUE_LENGTH = 32  # calls that may wait in the background, which bounds the memory


@contextmanager
def background_calls() -> Iterator[Callable[..., None]]:
    """Yield `submit(function, *arguments)`, which runs calls in order on one background thread.

    The network runs on while results are measured and written. `submit` waits while `QUEUE_LENGTH` calls are pending;
    leaving the block waits for all of them. The first error of a call is raised by a later `submit` or at the end; the
    calls after it are not run, since they may rely on its work.
    """
    pending: deque[Future] = deque()
    failed = False

    def call(function: Callable, *arguments: object) -> None:
        nonlocal failed
        if failed:
            return
        try:
            function(*arguments)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(1) as worker:

        def submit(function: Callable, *arguments: object) -> None:
            while pending and (pending[0].done() or len(pending) >= QUEUE_LENGTH):
                pending.popleft().result()
            pending.append(worker.submit(call, function, *arguments))

        yield submit
        for future in pending:
            future.result()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image: grey uint8 or uint16 [H, W], or RGB uint8 [H, W, 3]."""
    with renamed_path(path) as temporary:
        temporary.write_bytes(encode_png(image))


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask bool [H, W] as a png of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_map(path: Path, scores: np.ndarray) -> None:
    """Write scores [H, W]: exactly if `path` ends in .npy, else probabilities as a 16-bit png."""
    if path.suffix == ".npy":
        with renamed_path(path) as temporary:
            np.save(temporary, scores)
    else:
        write_png(path, np.rint(scores.astype(np.float64) * SCORE_LEVELS).astype(np.uint16))


def write_table(path: Path, rows: Iterable[dict]) -> None:
    """Write metrics as csv: ratios, and an empty cell where a metric is not defined."""
    rows = list(rows)
    columns = dict.fromkeys(name for row in rows for name in row)
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def single_numbers(metrics: Mapping) -> dict:
    """The metrics of a set, without the metrics of its parts (sequences, classes of area)."""
    return {name: value for name, value in metrics.items() if not isinstance(value, dict)}


def write_image_metrics(path: Path, metrics: Mapping[str, MetricAccumulator]) -> None:
    """Write per_image.csv: the metrics of each image by each protocol."""
    write_table(path, ({"protocol": name} | row for name, metric in metrics.items() for row in metric.image_metrics()))


def frame_file(folder: Path, sequence: str | None, frame: str, suffix: str = ".png") -> Path:
    """`folder`/<sequence>/<frame><suffix>, or `folder`/<frame><suffix> for an image without a sequence."""
    return folder / (sequence or "") / f"{frame}{suffix}"
