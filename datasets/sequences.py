"""The two small structures that every part of the data code speaks of."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Frame:
    """One image file; `mask` is None where the frame is context only."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Sequence:
    """Frames in the order of time. A single image is a sequence of one frame, which bears its name."""

    name: str
    frames: tuple[Frame, ...]
