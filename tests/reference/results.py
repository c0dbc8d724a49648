"""Result files as tests compare them."""

import json
from pathlib import Path

PLACES = ("provenance", "checkpoint", "split_source")  # what a run of equal results may have otherwise


def result_bytes(file: Path) -> bytes:
    """The content of a file, without what tells where, when and by which command it was made."""
    if file.name not in ("run.json", "metrics.json"):
        return file.read_bytes()
    content = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps({name: value for name, value in content.items() if name not in PLACES}).encode()
