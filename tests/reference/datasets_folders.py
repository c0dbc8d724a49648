"""Small datasets on the disk for the tests."""

from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]


def write_image(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def frame_and_mask(seed: int, shape: tuple[int, int] = (32, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy frame with a bright 3 x 3 target, and its mask 0/255."""
    random = np.random.default_rng(seed)
    frame = random.integers(40, 80, shape, dtype=np.uint8)
    mask = np.zeros(shape, np.uint8)
    y, x = random.integers(4, np.array(shape) - 4)
    frame[y - 1 : y + 2, x - 1 : x + 2] = 220
    mask[y - 1 : y + 2, x - 1 : x + 2] = 255
    return frame, mask


def write_pairs(images: Path, masks: Path, names: list[str], ending: str = ".png", mask_ending: str = ".png") -> None:
    for seed, name in enumerate(names):
        frame, mask = frame_and_mask(seed)
        write_image(images / f"{name}{ending}", frame)
        write_image(masks / f"{name}{mask_ending}", mask)


def write_sequences(root: Path, names: list[str], frames: int = 5) -> Path:
    """Sequence layout 1."""
    for number, name in enumerate(names):
        for index in range(frames):
            frame, mask = frame_and_mask(100 * number + index)
            write_image(root / "images" / name / f"{index}.png", frame)
            write_image(root / "masks" / name / f"{index}.png", mask)
    return root


def write_lists(folder: Path, **lists: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries in lists.items():
        (folder / f"{name}.txt").write_bytes("".join(f"{entry}\n" for entry in entries).encode())
