"""Detections in COCO's format: what pycocotools makes of them, against masks and against annotated boxes."""

import json

import numpy as np
import pytest

from istd.datasets import from_boxes, open_dataset
from istd.datasets.coco_truth import coco_truth
from istd.test_script import evaluate
from istd.test_script.predictor.detections import Detection
from istd.test_script.results.coco_results import coco_entries
from istd.utils import plots
from istd.utils.files import write_json
from istd.utils.images import read_mask
from tests.reference.datasets_folders import write_image
from tests.test.test_evaluate import no_axes

coco_module = pytest.importorskip("pycocotools.coco")
evaluator = pytest.importorskip("pycocotools.cocoeval")
SHAPE = (24, 32)


@pytest.fixture
def dataset(tmp_path):
    """Three sequences of two frames with boxes; maps that find some targets, miss some, and invent others."""
    rows, random = ["sequence,frame,x0,y0,width,height"], np.random.default_rng(3)
    for sequence in "abc":
        for frame in range(2):
            image, score = np.full(SHAPE, 40 + frame, np.uint8), np.zeros(SHAPE, np.float32)
            for left in (3, 20):
                top = int(random.integers(2, 18))
                image[top : top + 3, left : left + 4] = 200
                rows.append(f"{sequence},{frame},{left},{top},4,3")
                if random.random() < 0.8:
                    score[top : top + int(random.integers(1, 4)), left : left + 4] = random.uniform(0.6, 0.99)
            score[0, 0] = 0.7
            write_image(tmp_path / "frames" / sequence / f"{frame}.png", image)
            (tmp_path / "maps" / sequence).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "maps" / sequence / f"{frame}.npy", score)
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    from_boxes.main([
        "--annotations", str(tmp_path / "boxes.csv"), "--images", str(tmp_path / "frames"),
        "--output", str(tmp_path / "set"),
    ])  # fmt: skip
    (tmp_path / "set" / "train.txt").write_text("a\n")
    (tmp_path / "set" / "test.txt").write_text("b\nc\n")
    return tmp_path


def by_pycocotools(truth, detections, tmp_path, kind="bbox"):
    write_json(tmp_path / "truth.json", truth)
    reference = coco_module.COCO(str(tmp_path / "truth.json"))
    run = evaluator.COCOeval(reference, reference.loadRes(str(detections)), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[1]


def test_metrics_of_boxes_are_printed_and_are_those_of_pycocotools(dataset, monkeypatch, capsys):
    monkeypatch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
    options = ["--predictions", str(dataset / "maps"), "--dataset", str(dataset / "set")]
    evaluate.main([*options, "--output_dir", str(dataset / "out"), "--output", str(dataset / "metrics.json")])
    boxes = json.loads((dataset / "metrics.json").read_text())["standard"]["boxes"]
    said = capsys.readouterr().out
    assert f"AP50 {100 * boxes['ap50']:.2f}" in said
    assert 0 < boxes["ap50"] < 1
    assert (boxes["images"], boxes["boxes"]) == (4, 8)
    assert (boxes["intervals"]["unit"], boxes["intervals"]["units"]) == ("sequences", 2)
    report = (dataset / "out" / "report.html").read_text()
    row = f"<td>all frames</td><td>{100 * boxes['ap50']:.2f}</td>"
    assert row in report and "<th>AP50 <span>%</span></th>" in report
    index, detections = open_dataset(dataset / "set"), dataset / "out" / "detections_coco.json"
    assert by_pycocotools(coco_truth(index, index.split("test")), detections, dataset) == boxes["ap50"]
    evaluate.main([*options, "--output", str(dataset / "alone.json")])
    assert json.loads((dataset / "alone.json").read_text())["standard"]["boxes"] == boxes, "also without a report"
    evaluate.main([*options, "--output_dir", str(dataset / "long"), "--min_track", "2"])
    saved = json.loads((dataset / "long" / "metrics.json").read_text())["protocols"]["standard"]
    assert saved["boxes"] == boxes, "short tracks count"
    assert len(json.loads((dataset / "long" / "detections_coco.json").read_text())) < boxes["detections"]


def test_regions_in_the_file_are_those_of_the_masks(dataset, monkeypatch):
    monkeypatch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
    words = ["--predictions", str(dataset / "maps"), "--dataset", str(dataset / "set"), "--min_track", "2"]
    evaluate.main([*words, "--output_dir", str(dataset / "out")])
    (dataset / "set" / "boxes.json").unlink()
    index, detections = open_dataset(dataset / "set"), dataset / "out" / "detections_coco.json"
    truth = coco_truth(index)
    reference = coco_module.COCO()
    reference.dataset = truth
    reference.createIndex()
    results = reference.loadRes(str(detections))
    drawn = {}
    for entry in results.loadAnns(results.getAnnIds()):
        drawn[entry["file_name"]] = drawn.get(entry["file_name"], 0) + results.annToMask(entry)
    assert drawn
    for name, mask in drawn.items():
        assert np.array_equal(mask > 0, read_mask(dataset / "out" / name.replace("images", "masks")))


def test_an_entry_by_hand():
    """Runs of 7, 1, 2, 1 and 1 pixels down the columns; the last two less the runs two before: 0 and -1."""
    mask = np.zeros((3, 4), bool)
    mask[1, 2:] = True
    detection = Detection(1, 2.5, 1.0, 2, 1, 2, 1, 2, 0.25, 0.75)
    assert coco_entries(7, "images/a.png", [detection], mask) == [{
        "image_id": 7, "category_id": 1, "bbox": [2, 1, 2, 1], "score": 0.75, "file_name": "images/a.png",
        "segmentation": {"size": [3, 4], "counts": "7120O"},
    }]  # fmt: skip
