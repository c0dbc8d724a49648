import csv
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from istd.datasets import open_dataset
from istd.datasets.synthetic import RenderConfig, render_dataset
from istd.datasets.targets import TargetRow
from istd.models import build_model
from istd.test_script.network_maps import network_maps
from istd.test_script.pd_over_snr import STRIDE, ScoredFrame, by_interval, compare, load, main, score_frames
from istd.test_script.predictor import Predictor
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError
from istd.utils.metrics.curves import matched_logits


def square(shape, *places):
    """A bool map with 3 x 3 squares whose top left corners are `places`."""
    mask = np.zeros(shape, bool)
    for top, left in places:
        mask[top : top + 3, left : left + 3] = True
    return mask


def test_pd_by_snr_at_the_threshold_that_keeps_the_false_alarm_rate():
    scores = np.zeros((2, 40, 40), np.float32)
    scores[0][square((40, 40), (2, 2))] = 0.3  # dim target, as bright as the clutter
    scores[0][square((40, 40), (20, 20))] = 0.9
    scores[0][square((40, 40), (30, 2))] = 0.3  # clutter: 9 of 3200 pixels
    scores[1][square((40, 40), (10, 10))] = 0.6
    first = ScoredFrame(scores[0], square((40, 40), (2, 2), (20, 20)), np.array([1.2, 2.2]))
    second = ScoredFrame(scores[1], square((40, 40), (10, 10)), np.array([1.4]))
    edges = (1.0, 1.5, 2.0, 2.5)

    tolerant = compare([first, second], fa=9 / 3200, edges=edges)
    assert tolerant.fa == 9 / 3200 and tolerant.threshold == 0 and tolerant.pd == 1
    assert tolerant.pd_by_snr[0] == 1 and np.isnan(tolerant.pd_by_snr[1]) and tolerant.pd_by_snr[2] == 1

    strict = compare([first, second], fa=1e-6, edges=edges)
    assert strict.fa == 0 and strict.threshold == pytest.approx(0.3, abs=1 / 128) and strict.pd == pytest.approx(2 / 3)
    assert strict.pd_by_snr[0] == 0.5 and strict.pd_by_snr[2] == 1
    assert [inside.sum() for inside in by_interval([first, second], edges)] == [2, 0, 1]


def test_the_command_compares_networks_and_copies_of_one_frame(tmp_path, capsys):
    render_dataset(tmp_path / "dim", RenderConfig(sequences=2, frames=3, size=(32, 32), val_share=0.5, snr=(2, 6)))
    options = {"width": 48, "depths": (1, 1, 1, 1), "spatial_width": 16, "spatial_depths": (1, 1, 1, 1)}
    for name, more in (
        ("datransnet", {}),
        ("sgmp_unet", options | {"decoder_depths": (1, 1, 1), "head_heads": (3, 1)}),
    ):
        save_checkpoint(tmp_path / f"{name}.pth", build_model(name, **more), {})
    paths = [str(tmp_path / f"{name}.pth") for name in ("datransnet", "sgmp_unet")]
    arguments = ["--model_path", *paths, "--dataset", str(tmp_path / "dim"), "--snr", "1", "3", "9", "--device", "cpu"]
    main([*arguments, "--output", str(tmp_path / "out.png")])
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == [
        "network",
        "targets",
        "datransnet",
        "sgmp_unet",
        "sgmp_unet; copies of one frame",
    ]
    assert all(float(row[2]) <= 10 for row in rows[2:]) and rows[0][-2:] == ["SNR 1-3", "SNR 3-9"]
    total, *counts = map(int, rows[1][3:])
    assert total == sum(counts) > 0  # every target of this dataset has an SNR between 1 and 9
    assert "3 frames" in capsys.readouterr().out and (tmp_path / "out.png").stat().st_size > 1000
    with pytest.raises(InputError, match="ascending"):
        main([*arguments, "--snr", "3", "1"])


def test_clips_go_on_at_the_other_end_where_the_preset_says_so(tmp_path):
    options = {"width": 48, "depths": (1, 1, 1, 1), "spatial_width": 16, "spatial_depths": (1, 1, 1, 1)}
    model = build_model("sgmp_unet", **options, decoder_depths=(1, 1, 1), head_heads=(3, 1))
    render_dataset(tmp_path / "dim", RenderConfig(sequences=2, frames=3, size=(32, 32), val_share=0.5))
    index = open_dataset(tmp_path / "dim")
    for preset, border in (("sgmp_unet", "wrap"), ("grey", "clamp")):
        save_checkpoint(tmp_path / "net.pth", model, {"preset": preset})
        dataset, predictor = load(tmp_path / "net.pth", index.split("test"), index.info, torch.device("cpu"))
        assert (dataset.border, dataset.num_frames, predictor.model.name) == (border, 6, "sgmp_unet")


@pytest.mark.parametrize("name", ["result", "result.csv"])
def test_a_picture_of_no_known_format_is_refused_before_the_work(name, tmp_path):
    with pytest.raises(InputError, match=rf"{name}: expected a file name that ends in \.png"):
        main(["--model_path", "a.pth", "--dataset", str(tmp_path), "--output", str(tmp_path / name)])


def test_saturated_probabilities_remain_apart():
    """Logits 20 and 30 are both 1 as float32 probabilities; the target has the larger one."""
    logits = np.full((1, 1, 1, 12), -9.0, np.float32)
    logits[..., 2], logits[..., 9] = 30, 20

    class Network(nn.Module):
        num_frames, frame_stride, target_index, size_multiple = 1, 1, 0, 1

        def forward(self, clip):
            return torch.from_numpy(logits)

    mask = np.zeros((1, 12), bool)
    mask[0, 2] = True
    sample = SimpleNamespace(clip=torch.zeros(1, 1, 1, 12), mask=torch.from_numpy(mask)[None].float())
    predictor = Predictor(Network(), lambda frame: frame)
    source = partial(network_maps, dataset=[sample], predictor=predictor, scales={"logit"})
    rows = [TargetRow("s", "0", 0, x, 0, 0, 0, 1, 1, 1, snr) for x, snr in ((5.0, 5.0), (2.5, 2.0))]
    frames = score_frames(source, {0: rows}, title="")
    assert frames[0].snr.tolist() == [2.0]
    for unknown in ([], rows[:1]):  # 3 px away
        assert np.isnan(score_frames(source, {0: unknown}, title="")[0].snr).all()
    result = compare(frames, fa=1e-6, edges=(1.0, 3.0))
    assert (result.pd, result.fa, result.pd_by_snr) == (1, 0, [1])


def test_float32_logits_are_compared_with_the_exact_threshold():
    """The target's logit is the threshold, rounded up by less than float32 tells apart; clutter lies just below it."""
    thresholds = matched_logits(STRIDE)
    number = next(i for i in range(1000, len(thresholds)) if np.float32(thresholds[i]) > thresholds[i])
    logits = np.full((1, 12), -9.0, np.float32)
    logits[0, 2], logits[0, 9] = thresholds[number], thresholds[number - 1 : number + 1].mean()
    mask = np.arange(12)[None] == 2
    result = compare([ScoredFrame(logits, mask, np.array([2.0]))], fa=1e-6, edges=(1.0, 3.0))
    assert (result.threshold, result.fa, result.pd) == (thresholds[number], 0, 1)
