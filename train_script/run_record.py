"""run.json, the record of a run: its data, by fingerprints, and the commands, code and machines that trained it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from istd.datasets import DatasetIndex
from istd.datasets.fingerprint import fingerprint, image_digests
from istd.train_script.data import Splits
from istd.utils.checkpoint import Checkpoint
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.names import counted
from istd.utils.provenance import provenance

RECORD = "run.json"
LEARNED = ("train", "val")  # parts that weights depend on
PARTS = {"train": "training images", "val": "held-out images", "test": "test images"}


def describe_data(indices: list[DatasetIndex], splits: Splits) -> list[dict[str, Any]]:
    """For every dataset: its name, the source of its split, what was left out as unusable, and the number of frames and
    the fingerprint of each part that the run uses, and the digests of the images that its weights come from."""
    record = []
    for index in indices:
        parts = {
            part: {"frames": sum(len(sequence.frames) for sequence in sequences), "fingerprint": fingerprint(sequences)}
            for part, sequences in splits[index.info.name].items()
            if sequences
        }
        images = {part: " ".join(image_digests(splits[index.info.name].get(part, ()))) for part in LEARNED}
        source = {"split_source": index.split_source, "left_out": list(index.left_out), "images": images}
        record.append({"name": index.info.name, **source, **parts})
    return record


def data_digest(record: list[dict[str, Any]]) -> str:
    """Twelve digits that stand for all data of a run, for its table of metrics."""
    parts = [[dataset.get(part) for part in PARTS] for dataset in record]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def differences(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """What differs between two records: a text for each part in both records; the places of the images do not count.

    Their digests count, if both records have them.
    """
    if len(before) != len(now):
        return [f"{counted(len(before), 'dataset')} then, {len(now)} now"]

    def changed(old: dict[str, Any], new: dict[str, Any], part: str) -> bool:
        digests = [data["images"][part] for data in (old, new) if part in data.get("images", {})]
        return old[part] != new[part] or len(set(digests)) > 1

    return [
        f"{title} of {new['name']} ({old[part]['frames']} then, {new[part]['frames']} now"
        + (", others)" if old[part]["frames"] == new[part]["frames"] else ")")
        for old, new in zip(before, now, strict=True)
        for part, title in PARTS.items()
        if part in old and part in new and changed(old, new, part)
    ]


def check_data(saved: Checkpoint, record: list[dict[str, Any]]) -> None:
    """Raise `InputError` if a run would continue with other data, if its checkpoint records the data."""
    if changed := differences(saved.training.get("data", record), record):
        raise InputError(
            f"{saved.path} was trained on other data: {'; '.join(changed)}; restore them, say with --dataset where the "
            "same images lie now, or begin another run with --experiment_name"
        )


def describe_record(record: list[dict[str, Any]], session: dict[str, Any]) -> list[str]:
    """Lines about the data and the code of a run, for the head of settings.yaml."""
    data = [
        f"data: {dataset['name']}, {title}: {dataset[part]['frames']}, fingerprint {dataset[part]['fingerprint']}"
        for dataset in record
        for part, title in PARTS.items()
        if part in dataset
    ]
    return data + [
        f"{name}: {session[name]}" for name in ("command", "commit", "version", "python", "torch", "machine")
    ]


def write_record(folder: Path, record: list[dict[str, Any]], epoch: int, step: int) -> dict[str, Any]:
    """Write run.json, or add this command to the "sessions" of a run that is continued; returns its entry there."""
    path = folder / RECORD
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or no run yet
        sessions = []
    session = provenance() | {"from_epoch": epoch, "from_step": step}
    write_json(path, {"data": record, "sessions": [*sessions, session]})
    return session
