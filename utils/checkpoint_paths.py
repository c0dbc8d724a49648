"""Where checkpoint files are. Nothing here imports PyTorch, so that the help of a command need not wait for it."""

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"  # the checkpoints that ship with the repository
SUFFIXES = (".pth", ".safetensors")
HUB_FILE = "model.safetensors"  # the weights in a folder of the Hugging Face Hub


def shipped_weights() -> dict[str, Path]:
    """The checkpoints in weights/, by the names that `--weights` and `load_model` take."""
    return {file.stem: file for file in sorted(WEIGHTS.glob("*")) if file.suffix in SUFFIXES}


def find_checkpoint(source: str | Path) -> Path:
    """The file that `source` names: a file, a folder of the Hugging Face Hub, or shipped weights, in this order.

    Any other `source` is returned as a path, whose fault `read_content` explains.
    """
    path = Path(source)
    if path.is_file():
        return path
    if (path / HUB_FILE).is_file():
        return path / HUB_FILE
    return shipped_weights().get(str(source), path)
