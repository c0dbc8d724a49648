"""A network with a second head, trained, validated and tested with its own loss: nothing in between knows of it."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.models import MODELS, load_model
from istd.models.network import Network
from istd.train_script.losses import LOSSES, Loss, soft_iou_loss
from istd.train_script.settings import Settings
from istd.train_script.train import main
from istd.utils.checkpoint import read_checkpoint
from tests.train.test_train import arguments, dataset, folder_of, rows  # noqa: F401


class TwoHeads(Network):
    """Logits of targets, and the number of target pixels in the frame."""

    name = "two_heads"

    def __init__(self, width: int = 4):
        super().__init__()
        self.features, self.map, self.count = (
            nn.Conv2d(1, width, 3, padding=1),
            nn.Conv2d(width, 1, 1),
            nn.Linear(width, 1),
        )

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | dict[str, Tensor]:
        features = self.features(clip[:, 0]).relu()
        logits = self.map(features)
        return {"main": logits, "count": self.count(features.mean(dim=(2, 3)))[:, 0]} if with_aux else logits


def counting_loss(outputs, batch, progress, weight: float = 1.0):
    """The soft IoU of the map, and the error of the count."""
    count = batch["mask"].sum(dim=(1, 2, 3))
    seen.append((progress.epoch, progress.step, progress.steps, weight, sorted(batch)))
    return soft_iou_loss(outputs["main"], batch["mask"]) + weight * F.smooth_l1_loss(outputs["count"], count)


seen = []


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    monkeypatch.setitem(MODELS, "two_heads", TwoHeads)
    monkeypatch.setitem(LOSSES, "counting", Loss(counting_loss, all_outputs=True))
    monkeypatch.setitem(Settings.__annotations__, "loss", Literal["bce_soft_iou", "counting"])
    seen.clear()


def test_a_second_head_touches_the_network_and_a_loss(dataset, tmp_path):  # noqa: F811
    options = {"model": "two_heads", "model_options": "width=3", "loss": "counting", "loss_options": "weight=0.5"}
    assert main(arguments(dataset, tmp_path, preset="grey", final_test=True, ema=0, **options)) == 0
    assert [place[:4] for place in seen] == [(step // 4, step, 4, 0.5) for step in range(8)]
    assert seen[0][4] == ["clip", "dataset", "frame", "mask", "sequence"]
    best = folder_of(tmp_path) / "checkpoint_best.pth"
    assert read_checkpoint(best).settings["loss_options"] == {"weight": 0.5}
    torch.manual_seed(42)
    fresh, trained = TwoHeads(3), load_model(best)
    assert not torch.equal(fresh.count.bias, trained.count.bias) and not torch.equal(fresh.map.bias, trained.map.bias)
    assert rows(folder_of(tmp_path))[-1]["val"]["iou"] is not None
