import copy
import json

import numpy as np
import pytest

from istd.utils.errors import InputError
from istd.utils.metrics import boxes
from istd.utils.metrics.bootstrap import draw_units
from istd.utils.metrics.boxes import BOX_HEADINGS, BoxMetrics, box_iou, box_line, measure_boxes, read_box_files

coco_module = pytest.importorskip("pycocotools.coco")
evaluator = pytest.importorskip("pycocotools.cocoeval")


def truth_of(boxes, images=1, categories=(1,)):
    """boxes: (image, box[, category, crowd]); ids count from 1."""
    annotations = [
        {"id": number, "image_id": image, "bbox": box, "area": box[2] * box[3], "category_id": 1, "iscrowd": 0}
        | dict(zip(("category_id", "iscrowd"), more, strict=False))
        for number, (image, box, *more) in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number} for number in categories],
        "annotations": annotations,
    }


def detections_of(rows):
    """rows: (image, box, score[, category])."""
    return [
        {"image_id": image, "bbox": box, "score": score, "category_id": more[0] if more else 1}
        for image, box, score, *more in rows
    ]


def by_pycocotools(truth, detections, by_category=True):
    """The four metrics from `COCOeval`, as the papers take them from it; of a single category."""
    reference = coco_module.COCO()
    reference.dataset = copy.deepcopy(truth)
    reference.createIndex()
    run = evaluator.COCOeval(reference, reference.loadRes(copy.deepcopy(detections)), "bbox")
    run.params.useCats = int(by_category)
    run.evaluate()
    run.accumulate()
    run.summarize()
    recall = run.eval["recall"][0, 0, 0, -1]
    levels = run.eval["precision"][0, :, 0, 0, -1][: int(recall * 100)]
    precision = np.mean(levels) if len(levels) else None
    f1 = None if precision is None else 2 * recall * precision / (recall + precision)
    return run.stats[1], precision, recall, f1


def test_metrics_by_hand():
    truth = truth_of([(1, [0, 0, 10, 10]), (1, [50, 50, 10, 10]), (2, [0, 0, 4, 4]), (2, [20, 20, 4, 4])], images=2)
    detections = detections_of([
        (1, [0, 0, 10, 10], 0.9),  # right
        (2, [10, 0, 4, 4], 0.8),  # false
        (1, [0, 0, 10, 9], 0.7),  # false: the box is taken
        (2, [0, 0, 4, 2], 0.6),  # right: IoU 0.5
    ])  # fmt: skip
    # recall 1/4, 1/4, 1/4, 2/4; precision 1, 1/2, 1/3, 1/2, interpolated 1 up to recall 0.25 and 1/2 up to 0.5
    metrics = measure_boxes(truth, detections)
    assert metrics.recall == 0.5
    assert metrics.ap50 == pytest.approx((26 * 1 + 25 * 0.5) / 101, abs=1e-12)
    assert metrics.precision == pytest.approx((26 * 1 + 24 * 0.5) / 50, abs=1e-12)
    assert metrics.f1 == pytest.approx(2 * 0.5 * 0.76 / (0.5 + 0.76), abs=1e-12)
    assert (metrics.images, metrics.boxes, metrics.detections) == (2, 4, 4)


def random_case(seed, categories=(1,)):
    """Boxes with jittered, missing, doubled and false detections, ties of scores, and crowds."""
    random = np.random.default_rng(seed)
    boxes, detections = [], []
    for image in range(1, 13):
        for _ in range(random.integers(0, 5)):
            box = [*random.uniform(0, 60, 2).round(2).tolist(), *random.uniform(2, 12, 2).round(2).tolist()]
            category = int(random.choice(categories))
            boxes.append((image, box, category, int(random.random() < 0.1)))
            for _ in range(random.integers(0, 3)):
                moved = (np.array(box) + random.normal(0, 1.2, 4)).clip(0.5).tolist()
                detections.append((image, moved, float(random.integers(1, 8)) / 8, int(random.choice(categories))))
        places = random.uniform(0, 60, (random.integers(0, 3), 2)).tolist()
        detections += [(image, [*place, 5.0, 5.0], random.random(), categories[0]) for place in places]
    return truth_of(boxes, 12, categories), detections_of(detections)


@pytest.mark.parametrize("seed", range(12))
def test_metrics_equal_those_of_pycocotools_to_the_last_digit(seed):
    truth, detections = random_case(seed)
    assert measure_boxes(truth, detections)[:4] == by_pycocotools(truth, detections)


@pytest.mark.parametrize("by_category", [True, False])
def test_several_categories_as_in_pycocotools(by_category):
    truth, detections = random_case(5, (3, 1, 7))
    ap50, precision, recall, f1 = by_pycocotools(truth, detections, by_category)
    metrics = measure_boxes(truth, detections, by_category)
    assert metrics.ap50 == ap50
    assert by_category or metrics[1:4] == (precision, recall, f1)


def resampled(truth, detections, numbers):
    """The images of these numbers as a set of its own, in which they may occur several times."""
    boxes, drawn = [], []
    for image, number in enumerate(numbers, start=1):
        copies = (
            [entry | {"image_id": image} for entry in entries if entry["image_id"] == number]
            for entries in (truth["annotations"], detections)
        )
        for entries, copy_of in zip((boxes, drawn), copies, strict=True):
            entries += copy_of
    boxes = [box | {"id": count} for count, box in enumerate(boxes, start=1)]
    images = [{"id": image} for image in range(1, len(numbers) + 1)]
    return truth | {"images": images, "annotations": boxes}, drawn


@pytest.mark.parametrize("categories", [(1,), (3, 1)])
def test_intervals_are_those_of_resampled_images(monkeypatch, categories):
    truth, detections = random_case(3, categories)
    for number, detection in enumerate(detections):
        detection["score"] += number * 1e-6  # no ties, whose order would differ
    monkeypatch.setattr(boxes, "draw_units", lambda units: draw_units(units, 30, 2))
    names = dict.fromkeys(range(1, 13))
    result = measure_boxes(truth, detections, sequences=names).intervals
    assert (result["unit"], result["units"]) == ("images", 12)
    order = sorted(range(12), key=lambda number: f"image {number}")
    values = []
    for drawn in np.concatenate([*draw_units(12, 30, 2)]):
        numbers = [1 + number for number, count in zip(order, drawn, strict=True) for _ in range(count)]
        values.append(measure_boxes(*resampled(truth, detections, sorted(numbers)))[:4])
    for name, column in zip(BOX_HEADINGS, zip(*values, strict=True), strict=True):
        defined = [value for value in column if value is not None]
        assert result["metrics"][name] == pytest.approx(np.quantile(defined, [0.025, 0.975]), abs=1e-12), name
    line = box_line(measure_boxes(truth, detections, sequences=names)._asdict())
    low, high = result["metrics"]["ap50"]
    assert f"({100 * low:.2f}-{100 * high:.2f})" in line.split(",")[2]


def test_sequences_of_boxes_are_drawn_as_a_whole():
    truth, detections = random_case(3)
    few = measure_boxes(truth, detections, sequences={number: f"s{number % 3}" for number in range(1, 13)}).intervals
    assert (few["unit"], few["units"], few["metrics"]) == ("sequences", 3, {})
    mixed = {number: "s" if number < 3 else None for number in range(1, 13)}
    result = measure_boxes(truth, detections, sequences=mixed).intervals
    assert (result["unit"], result["units"]) == ("sequences and images", 11) and result["metrics"]


def test_the_hundred_first_detection_of_an_image_does_not_count():
    truth = truth_of([(1, [0, 0, 10, 10])])
    false = [(1, [30 + number, 30, 2, 2], 0.9) for number in range(100)]
    detections = detections_of([*false, (1, [0, 0, 10, 10], 0.1)])
    assert measure_boxes(truth, detections)[:4] == (0.0, None, 0.0, None)
    assert measure_boxes(truth, detections[1:]).recall == 1.0
    assert by_pycocotools(truth, detections) == (0.0, None, 0.0, None)


def test_an_annotation_with_the_id_0_counts_as_pycocotools_counts_it():
    truth, detections = truth_of([(1, [0, 0, 10, 10]), (1, [30, 30, 5, 5])]), detections_of([(1, [0, 0, 10, 10], 0.9)])
    truth["annotations"][0]["id"] = 0
    assert measure_boxes(truth, detections)[:4] == by_pycocotools(truth, detections)


def test_nothing_annotated_and_nothing_found():
    assert measure_boxes(truth_of([]), []) == BoxMetrics(None, None, None, None, 1, 0, 0)
    assert measure_boxes(truth_of([(1, [0, 0, 2, 2])]), [])[:4] == (0.0, None, 0.0, None)


def test_iou_by_hand():
    truths = [{"bbox": [0, 0, 4, 4]}, {"bbox": [0, 0, 4, 4], "iscrowd": 1}, {"bbox": [4, 0, 4, 4]}]
    assert box_iou(truths, [{"bbox": [2, 0, 2, 2]}]).tolist() == [[4 / 16, 1.0, 0.0]]


def test_files_and_faults(tmp_path):
    truth, detections = random_case(0)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "list.json").write_text(json.dumps(detections))
    (tmp_path / "object.json").write_text(json.dumps({"annotations": detections}))
    for name in ("list", "object"):
        assert read_box_files(tmp_path / "truth.json", tmp_path / f"{name}.json") == (truth, detections)
    with pytest.raises(InputError, match=r"list\.json is no ground truth"):
        read_box_files(tmp_path / "list.json", tmp_path / "list.json")
    with pytest.raises(InputError, match="lacks score"):
        measure_boxes(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(InputError, match="the ground truth lacks the images of 1 detection, the first 99"):
        measure_boxes(truth, detections_of([(99, [0, 0, 1, 1], 1.0)]))
    with pytest.raises(InputError, match=r"of category \[4\], the ground truth of \[1\]"):
        measure_boxes(truth, detections_of([(1, [0, 0, 1, 1], 1.0, 4)]))
    for box, score, message in [
        (3, 1.0, "a box of 4 numbers: 3"), (["a", 0, 1, 1], 1.0, "a box of 4 numbers"), ([0, 0, 1], 1.0, "a box of 4"),
        ([0, 0, 1, 1], "high", "a finite score: 'high'"), ([0, 0, 1, 1], float("nan"), "a finite score: nan"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            measure_boxes(truth, detections_of([(1, box, score)]))
    with pytest.raises(InputError, match="ids of the images are of int and str"):
        measure_boxes(truth | {"images": [*truth["images"], {"id": "2"}]}, [])
    truth["annotations"][1]["id"] = truth["annotations"][0]["id"]
    with pytest.raises(InputError, match="annotations share 1 id"):
        measure_boxes(truth, detections)
