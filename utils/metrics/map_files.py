"""Read score maps from any program's npy, mat (MATLAB), and picture files: as stored, and as scores."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy

from istd.utils.errors import InputError
from istd.utils.images import read_pixels
from istd.utils.metrics.inputs import checked_scores, to_numpy

PICTURE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
PREDICTION_SUFFIXES = (".npy", ".mat", *PICTURE_SUFFIXES)
HDF5_START = b"\x89HDF\r\n\x1a\n"
MAT73_OFFSET = 512  # of HDF5 in a mat file of version 7.3


def read_map(path: Path) -> np.ndarray:
    """The values [H, W] as they are stored: numbers of an npy or mat file, levels of a picture.

    Raises `InputError` where the file cannot be read, or does not hold exactly one map.
    """
    suffix = path.suffix.lower()
    values = _read_npy(path) if suffix == ".npy" else _read_mat(path) if suffix == ".mat" else read_pixels(path)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise InputError(f"{path} has the shape {values.shape}; expected [H, W]")
    return values


def read_scores(path: Path, scale: str = "probability", two_values: tuple[float, float] | None = None) -> np.ndarray:
    """Read a map as float32 or float64 [H, W]: probabilities, or logits if `scale` is "logit".

    scale "probability": numbers as they are, pictures divided by 255 (8 bits) or 65535 (16 bits). "normalize": any
    responses, from the map's minimum (0) to its maximum (1), 0 where it is constant. two_values: the result of
    `mask_values`, (low, high), which become 0 and 1. Raises `InputError` for values that do not fit the scale.
    """
    values = read_map(path)
    if two_values is not None:
        return (values == two_values[1]).astype(np.float32)
    if scale != "normalize" and path.suffix.lower() in PICTURE_SUFFIXES and values.dtype.kind == "u":
        if scale == "logit":
            raise InputError(
                f"{path} is a {path.suffix[1:]}, which cannot hold logits; save them as npy, or leave out --logits"
            )
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    scores = to_numpy(values)
    if np.isinf(scores).any():
        raise InputError(f"{path} holds infinite values; expected finite numbers: check what computed them")
    scores = checked_scores(scores, str(path), scale)
    if scale == "normalize":
        low, high = scores.min(), scores.max()
        return (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    return scores


def mask_values(paths: Iterable[Path]) -> tuple[float, float] | None:
    """The two integers (low, high) that all maps together consist of, if they are masks; None for other maps.

    Reading stops at the first map that is no mask.
    """
    values: set[float] = set()
    for path in paths:
        values |= set(np.unique(read_map(path)).tolist())
        if len(values) > 2 or not all(float(value).is_integer() for value in values):
            return None
    return (min(values), max(values)) if len(values) == 2 else None


def _read_npy(path: Path) -> np.ndarray:
    try:
        saved = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}; expected a numpy array of numbers") from error
    if not isinstance(saved, np.ndarray) or saved.dtype.kind not in "fiub" or saved.size == 0:
        kind = f"{saved.dtype} of shape {saved.shape}" if isinstance(saved, np.ndarray) else "several arrays"
        raise InputError(f"{path} holds {kind}; expected a map of numbers")
    return saved


def _read_mat(path: Path) -> np.ndarray:
    """The only matrix of a mat file, of version 7.3 (HDF5, read by h5py) or before (by SciPy)."""
    try:
        with open(path, "rb") as file:
            start = file.read(MAT73_OFFSET + len(HDF5_START))
        arrays = _read_mat73(path) if HDF5_START in (start[:8], start[MAT73_OFFSET:]) else scipy.io.loadmat(path)
    except InputError:
        raise
    except Exception as error:  # SciPy and h5py raise errors of many types for a damaged file
        raise InputError(f"cannot read {path}: {error}; save the map again, with save -v7") from error
    maps = {
        name: array
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.ndim == 2 and array.size > 1
    }
    if len(maps) != 1:
        raise InputError(f"{path} has the matrices {', '.join(maps) or '(none)'}; expected one map; save it alone")
    return next(iter(maps.values()))


def _read_mat73(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        text = f"{path} is a mat file of version 7.3, which needs h5py"
        raise InputError(f"{text}: pip install h5py, or save it with save -v7") from error
    with h5py.File(path) as file:
        # MATLAB stores columns first
        return {name: entry[()].T for name, entry in file.items() if isinstance(entry, h5py.Dataset)}
