"""The output folder of a run: the facts that determine its results, and the results of earlier runs in it."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.names import folder_name
from istd.utils.provenance import provenance

RUN = "run.json"
REPORT_FRAMES = "report_frames"  # the frames that the report shows
RESULTS = (
    *("parts", "masks", "probabilities", "logits", "curves", REPORT_FRAMES, "report.html", "metrics.json"),
    *("per_image.csv", "per_sequence.csv", "detections.csv", "detections_coco.json", "tracks.csv"),
)
NOT_COMPARED = ("checkpoint", "split_source")  # facts without effect on the results: where files lie
OF_DATA = ("data", "frames", "ranges", "left_out")  # facts that differ where the images or masks do


def run_key(facts: dict[str, Any]) -> str:
    """A short text for the facts that determine the results, the same for the same results."""
    deciding = {name: value for name, value in facts.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()[:16]


def default_folder(dataset: str, checkpoint: str | Path) -> Path:
    """The default folder for the results of a checkpoint on a dataset: predict/DATASET/CHECKPOINT."""
    return Path("predict").joinpath(*map(folder_name, (dataset, checkpoint_label(checkpoint).replace("/", "_"))))


def checkpoint_label(path: str | Path) -> str:
    """A checkpoint's name in tables: its file's name, or RUN/checkpoint_best in the folder of a run."""
    path = Path(path).absolute()
    run = path.parent.parent.name if path.parent.name == "train" else path.parent.name
    return f"{run}/{path.stem}" if run and path.stem.startswith("checkpoint") else path.stem


def start_run(output: Path, facts: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Write `facts`, which determine the results, and their provenance to `output`/run.json; returns the provenance.

    The results of an earlier run are removed unless they can be continued. Raises `InputError` as `check_run` does, and
    where `output` has such files without a run.json, which may be the user's own.
    """
    state = check_run(output, facts, resume)
    if state == "none":
        if strange := [name for name in RESULTS if (output / name).exists()]:
            raise InputError(f"{output} holds {', '.join(strange)}, but no {RUN}; choose another --output_dir")
    elif not resume and (earlier := read_run(output)).get("model_sha256") != facts.get("model_sha256"):
        print(f"replacing the results of {earlier.get('checkpoint') or earlier.get('model')} in {output}")
    elif state == "other data":
        print(f"the results in {output} are of other images, masks or boxes, or of an earlier version: measuring again")
    if state != "same" or not resume:
        remove_results(output, RESULTS)
    record = provenance() | {"date": datetime.now().astimezone().isoformat(timespec="seconds")}
    write_json(output / RUN, facts | {"provenance": record})
    return record


def remove_results(output: Path, names: Iterable[str]) -> None:
    """Remove the files and folders with these names from `output`; raises `InputError` where that fails."""
    try:
        for path in map(output.joinpath, names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}: {error.strerror}; choose another --output_dir") from error


def check_run(output: Path, facts: dict[str, Any], resume: bool) -> str:
    """Whether `output` holds an earlier run: "none", "same", or of "other data".

    Raises `InputError` if it measured another dataset, or if it is to be resumed and had other settings. The checkpoint
    may have moved: its content counts.
    """
    if not (output / RUN).exists():
        return "none"
    earlier = read_run(output)
    names = facts.keys() - {*NOT_COMPARED, *OF_DATA} if resume else {"dataset", "split"}
    different = [name for name in facts if name in names and earlier.get(name) != facts[name]]
    if different:
        listing = ", ".join(f"{name} {earlier.get(name)!r}, now {facts[name]!r}" for name in different)
        remedy = "give the same options, or choose another --output_dir" if resume else "choose another --output_dir"
        raise InputError(f"{output} holds a run with {listing}; {remedy}")
    return "same" if earlier.get("data") == facts.get("data") else "other data"


def read_run(output: Path) -> dict[str, Any]:
    """The content of `output`/run.json; raises `InputError` where it cannot be read."""
    file = output / RUN
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {file}: {error}; remove it, or choose another --output_dir") from error


def read_finished(output: Path, facts: dict[str, Any]) -> dict[str, dict] | None:
    """The metrics by protocol of a finished run of the same `facts` in `output`, NaN as None; None if there is none."""
    try:
        content = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
        saved = content | {"protocols": list(content["protocols"])}
        same = all(saved.get(name) == value for name, value in facts.items() if name not in NOT_COMPARED)
        return dict(content["protocols"]) if same and (output / "report.html").is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
