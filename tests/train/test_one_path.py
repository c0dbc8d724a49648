"""A checkpoint has one number per dataset and protocol, wherever it is measured."""

import json

import numpy as np
import pytest

from istd.datasets import open_dataset
from istd.datasets.presets import PRESETS
from istd.test_script import evaluate, inference, measurement
from istd.test_script.predictor import Predictor
from istd.train_script.train import main
from istd.utils.images import read_mask
from istd.utils.metrics import PROTOCOLS
from istd.utils.metrics.accumulator import METRICS
from tests.reference.datasets_folders import REPOSITORY, frame_and_mask, write_image, write_lists

pytestmark = pytest.mark.usefixtures("undrawn")
WEIGHTS = REPOSITORY / "weights" / "datransnet_nudt-sirst.pth"
SIZES = {"a": (40, 56), "b": (64, 64), "c": (33, 47), "d": (20, 90)}  # of the frames of each sequence


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Sequences of different sizes, two to train on and two to test on, so noisy that metrics are not perfect."""
    random = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data") / "MIXED"
    for number, (name, size) in enumerate(SIZES.items()):
        for index in range(3):
            frame, mask = frame_and_mask(10 * number + index, size)
            noisy = np.clip(0.8 * frame + random.normal(20, 8, size), 0, 255).astype(np.uint8)
            write_image(root / "images" / name / f"{index}.png", noisy)
            write_image(root / "masks" / name / f"{index}.png", mask)
    write_lists(root, train=["a", "b"], val=["c", "d"])
    return root


@pytest.fixture
def recorded(monkeypatch):
    """The maps of every frame that a predictor scores, in order."""
    real, maps = Predictor.score_maps, []

    def score_maps(self, *args, **options):
        result = real(self, *args, **options)
        maps.extend(result)
        return result

    monkeypatch.setattr(Predictor, "score_maps", score_maps)
    monkeypatch.setattr(measurement, "write_report", lambda *_: None)  # it would score examples again
    return maps


@pytest.mark.parametrize(
    ("preset", "protocol"), [*((preset, "standard") for preset in PRESETS), ("grey", "datransnet")]
)
def test_training_inference_and_evaluate_agree_to_the_last_bit(mixed, tmp_path, recorded, preset, protocol):
    options = {
        "dataset": mixed, "model": "datransnet", "preset": preset, "protocol": protocol, "init_weights": WEIGHTS,
        "train_size": 32, "val_size": 64, "batch_size": 2, "epochs": 1, "lr": 1e-5, "val_batch_size": 4,
        "val_flip": True, "tensorboard": False, "amp": "bf16", "output_root": tmp_path, "experiment_name": "run",
    }  # fmt: skip
    assert main([text for name, value in options.items() for text in (f"--{name}", str(value))]) == 0
    folder = tmp_path / "MIXED" / "run" / "train"
    trained = json.loads((folder / "test.json").read_text())["metrics"]
    frames = [(sequence.name, frame) for sequence in open_dataset(mixed).split("test") for frame in sequence.frames]
    in_training = recorded[-len(frames) :]

    recorded.clear()
    arguments = ["--model_path", folder / "checkpoint_best.pth", "--dataset", mixed, "--protocol", protocol, "--flip"]
    inference.main([str(word) for word in [*arguments, "--output_dir", tmp_path / "predict", "--batch_size", 3]])
    inferred = json.loads((tmp_path / "predict" / "metrics.json").read_text())["protocols"][protocol]
    assert {name: inferred[name] for name in METRICS} == trained

    kind = PROTOCOLS[protocol].scale
    for (sequence, frame), scores, before in zip(frames, recorded, in_training, strict=True):
        score = getattr(scores, kind)
        assert score.shape == SIZES[sequence] and score.std() > 0
        assert np.array_equal(score, getattr(before, kind))
        path = tmp_path / "maps" / sequence / f"{frame.name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score)
        write_image(tmp_path / "masks" / sequence / f"{frame.name}.png", read_mask(frame.mask).astype(np.uint8))
    arguments = ["--predictions", tmp_path / "maps", "--masks", tmp_path / "masks", "--protocol", protocol]
    arguments += ["--output", tmp_path / "evaluated.json", *(["--logits"] if kind == "logit" else [])]
    evaluate.main([str(word) for word in arguments])
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())[protocol]
    assert {name: evaluated[name] for name in METRICS} == trained
