"""Every protocol on cases small enough to work out by hand."""

import itertools
import math

import numpy as np
import pytest

from istd.utils.errors import InputError
from istd.utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from istd.utils.metrics.accumulator import mean_metrics
from istd.utils.metrics.tables import metrics_line, metrics_table

GREEDY = ["sgmp-2025", "sgmp-2026", "datransnet", "basicirstd", "sctransnet"]
AREA_VALUE = ["sgmp-2025", "sgmp-2026", "datransnet", "sctransnet"]
CENTROID = ["standard", *GREEDY]


def picture(*boxes, size=32):
    """A map with boxes (top, left, height, width) of 1."""
    image = np.zeros((size, size), np.float32)
    for top, left, height, width in boxes:
        image[top : top + height, left : left + width] = 1
    return image


def measured(protocol, *pairs):
    metric = build_metric(protocol)
    for score, mask in pairs:
        metric.update(score, mask)
    return metric.compute() | metric.counts()


def test_the_table_has_every_published_protocol():
    assert {"standard", *GREEDY, "pyirstdmetrics", "dtum"} <= set(PROTOCOLS)
    assert [name for name, row in PROTOCOLS.items() if row.scale == "logit"] == ["sgmp-2025"]
    with pytest.raises(InputError, match=r"'acm' is not known; choose one of standard, sgmp-2025"):
        build_metric("acm")


def test_a_line_has_the_units_of_the_tables_and_no_undefined_metric():
    metrics = {"iou": 0.86419, "niou": None, "pd": math.nan, "fa": 1.0814e-5, "f1": 0.5, "recall": 1.0}
    assert metrics_line(metrics) == "IoU 86.42 %, Fa 10.81 x1e-6, pixel F1 50.00 %"


# Two images of 1024 px. First: mask 2 x 2, map 2 x 4 over it: I 4, U 8. Second: mask 3 x 3 = map: I 9, U 9.
OVERLAP = [
    (picture((4, 4, 2, 4)), picture((4, 4, 2, 2))),
    (picture((20, 20, 3, 3)), picture((20, 20, 3, 3))),
]
SET, MEAN = 13 / 17, (0.5 + 1) / 2


@pytest.mark.parametrize(
    ("protocol", "iou", "niou"),
    [
        ("standard", SET, MEAN),
        ("sgmp-2025", MEAN, SET),
        ("sgmp-2026", MEAN, SET),
        ("datransnet", SET, None),
        ("basicirstd", SET, None),
        ("sctransnet", SET, MEAN),
        ("dtum", None, None),
    ],
)
def test_iou_columns(protocol, iou, niou):
    result = measured(protocol, *OVERLAP)
    assert (result["iou"], result["niou"]) == (iou, niou)


@pytest.mark.parametrize(
    ("protocol", "iou", "niou"),
    [
        ("standard", SET, (0.5 + 1 + 1) / 3),
        ("sgmp-2025", (0.5 + 1 + 1) / 3, SET),
        ("sgmp-2026", (0.5 + 1 + 1) / 3, SET),
        ("datransnet", SET, None),
        ("basicirstd", SET, None),
        ("sctransnet", SET, (0.5 + 1 + 0) / 3),
        ("dtum", None, None),
        ("pyirstdmetrics", SET, (0.5 + 1 + 0) / 3),
    ],
)
def test_an_image_empty_in_both(protocol, iou, niou):
    result = measured(protocol, *OVERLAP, (picture(), picture()))
    assert (result["iou"], result["niou"]) == (iou, niou)
    # pyirstdmetrics counts a missed target in it, beside the two that are found
    assert result["pd"] == (2 / 3 if protocol == "pyirstdmetrics" else 1.0) and result["fa"] == 0.0


@pytest.mark.parametrize("protocol", ["standard", "datransnet"])
def test_pixel_scores(protocol):
    result = measured(protocol, *OVERLAP)
    assert (result["precision"], result["recall"], result["f1"]) == (13 / 17, 1.0, 26 / 30)


@pytest.mark.parametrize("protocol", ["sgmp-2025", "sgmp-2026", "basicirstd", "sctransnet", "dtum"])
def test_pixel_scores_are_null_where_not_defined(protocol):
    result = measured(protocol, *OVERLAP)
    assert result["precision"] is None and result["recall"] is None and result["f1"] is None


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "pyirstdmetrics"])
def test_without_targets_pd_is_nan_and_false_alarms_count(protocol):
    result = measured(protocol, (picture((5, 5, 2, 3)), picture()))
    assert math.isnan(result["pd"]) and result["targets"] == 0
    assert result["fa"] == 6 / 1024


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_measured_is_nan_not_an_error(protocol):
    metric = build_metric(protocol)
    assert all(value is None or math.isnan(value) for value in metric.compute().values())
    assert metric.counts()["images"] == 0 and metric.area_metrics() == {} and metric.sequence_metrics() == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_of_any_scale(protocol):
    score, mask = picture((4, 4, 3, 3), (20, 20, 2, 2)), picture((4, 4, 3, 3), (12, 12, 2, 2))
    expected = measured(protocol, (score, mask > 0))
    assert expected["pd"] == 0.5
    for scale, dtype in itertools.product((1, 254, 255), (np.uint8, np.float32, np.int64)):
        assert measured(protocol, (score, (mask * scale).astype(dtype))) == expected, (scale, dtype)


@pytest.mark.parametrize(
    ("protocol", "false_pixels"), [("standard", 9), ("basicirstd", 9), *((name, 0) for name in AREA_VALUE)]
)
def test_equal_area_trap(protocol, false_pixels):
    """A false 3 x 3 blob beside a matched 3 x 3 target costs nothing where areas are compared by value."""
    result = measured(protocol, (picture((4, 4, 3, 3), (20, 20, 3, 3)), picture((4, 4, 3, 3))))
    assert result["false_pixels"] == false_pixels and result["pd"] == 1.0
    # of another area it costs its pixels
    result = measured(protocol, (picture((4, 4, 3, 3), (20, 20, 3, 4)), picture((4, 4, 3, 3))))
    assert result["false_pixels"] == 12


@pytest.mark.parametrize("protocol", CENTROID)
def test_greedy_order_loses_a_target(protocol):
    """Targets at columns 10 and 14, regions at 12 and 8 (a row below): the first target may take the second region.

    Distances: first target to the regions at 12 and 8: 2 and sqrt(5); second target: 2 and more than 3.
    """
    mask = picture((10, 10, 1, 1), (10, 14, 1, 1))
    score = picture((10, 12, 1, 1), (11, 8, 1, 2))
    result = measured(protocol, (score, mask))
    if protocol == "standard":
        assert (result["matched"], result["false_pixels"]) == (2, 0)
    else:
        assert (result["matched"], result["false_pixels"]) == (1, 2)


@pytest.mark.parametrize("protocol", CENTROID)
def test_more_pairs_come_before_less_distance(protocol):
    """Targets at columns 10 and 12, regions at 12 and 14 (two pixels wide: 14.5).

    The second target alone on the region at 12 would be a distance of 0, but both pairs are wanted.
    """
    mask = picture((10, 10, 1, 1), (10, 12, 1, 1))
    score = picture((10, 12, 1, 1), (10, 14, 1, 2))
    assert measured(protocol, (score, mask))["matched"] == 2


def test_least_total_distance_decides_among_equal_pairs():
    """One target at 10, a far 1 px region before it and a near 2 px one after it in raster order."""
    mask, score = picture((10, 10, 1, 1)), picture((8, 10, 1, 1), (11, 10, 2, 1))
    # distances 2 and 1.5
    assert measured("standard", (score, mask))["false_pixels"] == 1
    assert measured("basicirstd", (score, mask))["false_pixels"] == 2  # takes the first


@pytest.mark.parametrize("protocol", CENTROID)
def test_distance_must_be_below_three(protocol):
    for row, column, matched in ((10, 13, 0), (13, 10, 0), (12, 12, 1), (10, 12, 1), (12, 13, 0)):
        result = measured(protocol, (picture((row, column, 1, 1)), picture((10, 10, 1, 1))))
        assert (result["matched"], result["false_pixels"]) == (matched, 1 - matched), (row, column)


@pytest.mark.parametrize("protocol", CENTROID)
def test_distance_of_exactly_three_between_thirds(protocol):
    """Centroids 10/3 and 19/3 are 3 px apart, but their floats are nearer: published codes match, ours does not."""
    mask, score = np.zeros((16, 16)), np.zeros((16, 16))
    mask[[0, 1, 1], [3, 3, 4]] = 1
    score[[0, 1, 1], [6, 6, 7]] = 1
    assert measured(protocol, (score, mask))["matched"] == (0 if protocol == "standard" else 1)


@pytest.mark.parametrize("protocol", CENTROID)
def test_targets_at_borders(protocol):
    mask = picture((0, 0, 2, 2), (0, 30, 2, 2), (30, 0, 2, 2), (31, 31, 1, 1))
    result = measured(protocol, (mask.copy(), mask))
    assert (result["pd"], result["fa"], result["targets"]) == (1.0, 0.0, 4)


@pytest.mark.parametrize("protocol", CENTROID)
def test_targets_touching_by_a_corner_are_one(protocol):
    mask = picture((4, 4, 2, 2), (6, 6, 2, 2))
    result = measured(protocol, (mask.copy(), mask))
    assert (result["targets"], result["matched"]) == (1, 1)


@pytest.mark.parametrize("protocol", CENTROID)
def test_a_region_touching_anothers_swallows_both(protocol):
    """Two 1 px targets at columns 10 and 14; the map joins them: one region, centroid 12, 2 px from either."""
    mask, score = picture((10, 10, 1, 1), (10, 14, 1, 1)), picture((10, 10, 1, 5))
    result = measured(protocol, (score, mask))
    assert (result["targets"], result["matched"], result["false_pixels"]) == (2, 1, 0)


@pytest.mark.parametrize(("protocol", "false_pixels"), [("standard", 2), ("basicirstd", 2), ("sctransnet", 2)])
def test_several_regions_on_one_target(protocol, false_pixels):
    """A 5 x 5 target broken into a 1 px region at its centre and a 2 px one beside: one finds it, one is false."""
    score = picture((12, 12, 1, 1), (14, 12, 1, 2))
    result = measured(protocol, (score, picture((10, 10, 5, 5))))
    assert (result["matched"], result["false_pixels"]) == (1, false_pixels)


def test_thresholds_of_a_half():
    mask = picture((4, 4, 1, 1))
    for protocol in PROTOCOLS:
        at = measured(protocol, (mask * np.float32(0.5), mask))["pd"]
        above = measured(protocol, (mask * np.nextafter(np.float32(0.5), np.float32(1)), mask))["pd"]
        assert (at, above) == (1.0 if protocol in ("dtum", "datransnet") else 0.0, 1.0)


def test_datransnet_divides_by_each_images_maximum():
    """Pd, Fa and F1 see score / 0.3 > 0.5; IoU sees score > 0.5, which is nothing."""
    mask = picture((4, 4, 2, 2))
    score = (
        mask * np.float32(0.3) + picture((20, 20, 1, 1)) * np.float32(0.16) + picture((25, 25, 1, 3)) * np.float32(0.14)
    )
    result = measured("datransnet", (score, mask), (picture((9, 9, 1, 1)), picture((9, 9, 1, 1))))
    assert result["iou"] == 1 / 5
    assert (result["pd"], result["fa"]) == (1.0, 1 / 2048)
    assert (result["precision"], result["recall"], result["f1"]) == (5 / 6, 1.0, 10 / 11)
    assert measured("datransnet", (picture(), mask))["pd"] == 0.0  # 0 / 0 is above nothing


def test_sgmp_2025_takes_logits():
    mask = picture((4, 4, 2, 2))
    assert measured("sgmp-2025", (mask * 9 - 4, mask))["iou"] == 1.0
    assert measured("sgmp-2025", (mask * 4.5 - 4, mask))["iou"] == 0.0  # logit 0.5 is not above 0.5
    with pytest.raises(InputError, match=r"scores run from -4 to 5, expected probabilities"):
        measured("sgmp-2026", (mask * 9 - 4, mask))


@pytest.mark.parametrize("protocol", ["sgmp-2025", "sgmp-2026"])
def test_video_mean(protocol):
    """Video a has frame IoUs 0.5 and 1, video b has 0: (0.75 + 0) / 2."""
    metric = build_metric(protocol)
    for (score, mask), frame in zip(OVERLAP, "12", strict=True):
        metric.update(score, mask, sequence="a", frame=frame)
    metric.update(picture(), picture((4, 4, 2, 2)), sequence="b", frame="1")
    assert metric.compute()["video_mean"] == 0.375
    assert metric.compute()["iou"] == 0.5


class TestDtum:
    """A 1 px target at (10, 10): hit boxes are 3 x 3, false alarms count outside 9 x 9."""

    mask = picture((10, 10, 1, 1))

    @pytest.mark.parametrize(
        ("pixel", "matched", "false_pixels"),
        [
            ((11, 11), 1, 0),  # in the 3 x 3 box
            ((12, 10), 0, 0),  # outside it, inside the 9 x 9 box
            ((14, 14), 0, 0),
            ((15, 10), 0, 1),
            ((6, 6), 0, 0),
            ((5, 10), 0, 1),
        ],
    )
    def test_boxes(self, pixel, matched, false_pixels):
        result = measured("dtum", (picture((*pixel, 1, 1)), self.mask))
        assert (result["matched"], result["false_pixels"]) == (matched, false_pixels)

    @pytest.mark.parametrize(
        ("target", "matched", "false_pixels"),
        [
            ((0, 10), 0, 1),  # row -1: the hit box is empty, and so is the free box
            ((10, 0), 0, 1),
            ((1, 10), 1, 1),  # row -3: the free box is empty
            ((3, 3), 1, 1),
            ((4, 4), 1, 0),
            ((31, 31), 1, 0),  # slices past the end are only cut
        ],
    )
    def test_slices_with_a_negative_start_are_empty(self, target, matched, false_pixels):
        image = picture((*target, 1, 1))
        result = measured("dtum", (image, image.copy()))
        assert (result["matched"], result["false_pixels"]) == (matched, false_pixels)

    def test_another_pixel_of_the_target_can_be_hit(self):
        mask = picture((0, 10, 2, 1))  # the pixel in row 1 has a box, rows 0 to 2
        assert measured("dtum", (picture((2, 10, 1, 1)), mask))["matched"] == 1


def test_area_classes():
    """Targets of 9, 10, 25, 81 and 84 px, of which those of 9 and 84 are found."""
    boxes = [(2, 2, 3, 3), (2, 10, 2, 5), (10, 2, 5, 5), (20, 2, 9, 9), (10, 20, 12, 7)]
    metric = build_metric("standard")
    metric.update(picture(boxes[0], boxes[4], size=48), picture(*boxes, size=48))
    areas = metric.area_metrics()
    assert {name: (area["targets"], area["matched"]) for name, area in areas.items()} == {
        "<= 9": (1, 1),
        "<= 25": (2, 0),
        "<= 81": (1, 0),
        "> 81": (1, 1),
    }
    assert areas["<= 25"]["pd"] == 0.0 and areas["> 81"]["pd"] == 1.0


def test_rows_sequences_and_groups():
    metric = build_metric("standard")
    score = np.stack([pair[0] for pair in OVERLAP] + [picture()])[:, None]
    mask = np.stack([pair[1] for pair in OVERLAP] + [picture((4, 4, 2, 2))])[:, None]
    metric.update(score, mask, sequence=["a", "a", "b"], frame=["1", "2", "1"])
    images = metric.image_metrics()
    assert [(image["sequence"], image["frame"], image["iou"]) for image in images] == [
        ("a", "1", 0.5),
        ("a", "2", 1),
        ("b", "1", 0),
    ]
    sequences = metric.sequence_metrics()
    assert (sequences["a"]["iou"], sequences["b"]["iou"], sequences["b"]["pd"]) == (SET, 0.0, 0.0)
    means = mean_metrics(sequences.values())
    assert means["iou"] == SET / 2
    assert math.isnan(sequences["b"]["precision"]) and means["precision"] == SET  # mean of those defined
    faint = metric.split(lambda row: {"b": "SNR < 10"}.get(row.sequence))
    assert list(faint) == ["SNR < 10"] and faint["SNR < 10"]["iou"] == 0.0


def test_scores_of_targets_stand_beside_those_of_pixels():
    """Two targets; one is found exactly, the other not; two regions are false: 1 of 3 regions and 1 of 2 targets."""
    mask, score = np.zeros((30, 30)), np.zeros((30, 30))
    mask[3:5, 3:5] = mask[20:22, 20:22] = 1
    score[3:5, 3:5] = score[10, 10] = score[25, 3] = 0.9
    metric = build_metric("standard")
    metric.update(score, mask)
    metrics = metric.compute()
    assert (metrics["target_precision"], metrics["target_recall"], metrics["target_f1"]) == (1 / 3, 1 / 2, 2 / 5)
    assert (metrics["precision"], metrics["recall"]) == (4 / 6, 4 / 8)
    assert build_metric("dtum").compute()["target_f1"] is None
    older = MetricAccumulator(metric.protocol, [row._replace(regions=None) for row in metric.rows])
    assert older.compute()["target_f1"] is None
    assert "pixel prec. %" in metrics_table({"a": metrics}, "") and "target prec. %" in metrics_table(
        {"a": metrics}, ""
    )
