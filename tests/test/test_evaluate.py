"""The evaluate command: matching by name, reading, errors, and what it writes."""

import csv
import json
from contextlib import contextmanager
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from scipy.special import expit

from istd.test_script.evaluate import main
from istd.test_script.results.frame_set import pair_frames
from istd.utils import plots
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.images import read_mask
from istd.utils.metrics import PROTOCOLS, build_metric
from istd.utils.metrics.curves import CurveAccumulator
from istd.utils.metrics.saved_maps import find_pairs
from tests.reference.datasets_folders import write_image, write_lists, write_pairs, write_sequences


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else cv2.imwrite(str(path), array)


@contextmanager
def no_axes(path):
    """Instead of matplotlib's, whose pictures take the most time."""
    path.touch()
    yield MagicMock()


def spot(value=1.0, row=4, size=(20, 24)):
    image = np.zeros(size, np.float32)
    image[row : row + 2, 4:6] = value
    return image


@pytest.fixture
def flat(tmp_path):
    """Image 1: found, float npy; 2: found, 8-bit png, mask 0/1; 10: missed, 16-bit png, NUAA's mask name."""
    save(tmp_path / "pred/1.npy", spot(0.9)[None, None])
    save(tmp_path / "pred/2.png", (spot() * 128).astype(np.uint8))
    save(tmp_path / "pred/10.png", (spot() * 32767).astype(np.uint16))
    save(tmp_path / "mask/1.png", (spot() * 255).astype(np.uint8))
    save(tmp_path / "mask/2.bmp", spot().astype(np.uint8))
    save(tmp_path / "mask/10_pixels0.png", (spot() * 254).astype(np.uint8))
    return tmp_path


def run(folder, *options):
    out = folder / "out.json"
    main(["--predictions", str(folder / "pred"), "--masks", str(folder / "mask"), "--output", str(out), *options])
    return json.loads(out.read_text())


def test_flat_folder(flat, capsys):
    result = run(flat)
    assert list(result) == ["standard"]
    standard = result["standard"]
    assert (standard["iou"], standard["niou"], standard["pd"], standard["fa"]) == (8 / 12, 2 / 3, 2 / 3, 0)
    assert (standard["precision"], standard["recall"], standard["f1"]) == (1, 8 / 12, 16 / 20)
    assert standard["ap"] == 1.0 and standard["auc"] == 1.0  # every target pixel lies above every other
    assert standard["images"] == 3 and standard["by_area"]["<= 9"] == {"targets": 3, "matched": 2, "pd": 2 / 3}
    assert standard["video_mean"] is None and standard["by_area"]["> 81"]["pd"] is None and "sequences" not in standard
    text = capsys.readouterr().out
    assert "3 images, 3 targets" in text and "66.67" in text


def test_it_says_that_nothing_was_written(flat, capsys):
    main(["--predictions", str(flat / "pred"), "--masks", str(flat / "mask")])
    assert "nothing was written; --output_dir DIR" in capsys.readouterr().out
    run(flat)
    assert "nothing was written" not in capsys.readouterr().out


def test_protocols_side_by_side(flat, capsys):
    result = run(flat, "--protocol", "all")
    assert list(result) == list(PROTOCOLS)
    assert {name: metrics["pd"] for name, metrics in result.items()} == {
        "standard": 2 / 3,
        "sgmp-2025": 1 / 3,  # logits of 0.9, 128/255 and 0.49999: only the first is above 0.5
        "sgmp-2026": 2 / 3,
        "datransnet": 1.0,  # divided by its maximum every spot is 1
        "basicirstd": 2 / 3,
        "sctransnet": 2 / 3,
        "dtum": 2 / 3,
        "pyirstdmetrics": 2 / 3,
    }
    assert result["standard"]["hiou"] == result["standard"]["loc_iou"] == 2 / 3 == 2 * result["standard"]["loc_missed"]
    assert result["dtum"]["iou"] is None and result["basicirstd"]["niou"] is None and result["dtum"]["ap"] is None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(PROTOCOLS)]] == list(PROTOCOLS)
    assert lines[2 + len(PROTOCOLS)] == "no 95 % intervals: resampling needs at least 10 images, and this set has 3"
    start = next(number for number, line in enumerate(lines) if line.startswith("hIoU and"))
    assert lines[start + 2].split() == ["standard", "66.67", *["0.00"] * 3, "33.33", *["0.00"] * 3]
    assert list(run(flat, "--protocol", "dtum", "--protocol", "standard", "dtum")) == ["dtum", "standard"]


def test_sequences_logits_and_groups(tmp_path, capsys):
    for sequence, values in (("1", [2.0, -2.0]), ("2", [3.0, 0.4])):
        for frame, value in zip(("f9", "f10"), values, strict=True):
            save(tmp_path / f"pred/{sequence}/{frame}.npy", spot(value + 9) - 9)
            save(tmp_path / f"mask/{sequence}/{frame}.png", (spot() * 255).astype(np.uint8))
    groups = tmp_path / "groups.csv"
    groups.write_text("1,dim\n2,bright\n")
    result = run(tmp_path, "--logits", "--protocol", "standard", "sgmp-2025", "--groups", str(groups))
    standard, sgmp = result["standard"], result["sgmp-2025"]
    assert (standard["pd"], sgmp["pd"]) == (0.75, 0.5)  # a logit of 0.4 is a probability above 0.5
    assert {name: values["pd"] for name, values in standard["sequences"].items()} == {"1": 0.5, "2": 1.0}
    assert standard["sequence_mean"]["pd"] == 0.75 and sgmp["video_mean"] == 0.5
    assert {name: values["pd"] for name, values in standard["groups"].items()} == {"dim": 0.5, "bright": 1.0}
    assert standard["sequences"]["1"]["auc"] == 1.0
    assert "mean of sequences" in capsys.readouterr().out


@pytest.mark.parametrize("folders", [("a", "b10"), ("",)], ids=["sequences", "single images"])
def test_saved_maps_give_the_metrics_of_the_maps_to_the_last_bit(folders, tmp_path):
    """maps/SEQUENCE/FRAME, or maps/FRAME for single images, of mixed sizes: float npy, logits, and 16-bit png."""
    random = np.random.default_rng(0)
    kinds = {"npy": "standard", "png": "standard", "logits": "sgmp-2025"}
    accumulators, curves = {kind: build_metric(protocol) for kind, protocol in kinds.items()}, CurveAccumulator()
    for folder in folders:
        for frame in ("9", "10"):
            mask = random.random((24, 30 + 8 * len(frame))) > 0.97
            logits = (random.normal(size=mask.shape) + 4 * mask - 2).astype(np.float32)
            logits[0] = 3e-5  # 0.5000075, level 32768: just above one half in all three
            probability = expit(logits)
            levels = np.rint(probability * 65535).astype(np.uint16)
            names = (folder or None, frame)
            accumulators["npy"].update(probability, mask, *names)
            curves.update(probability, mask)
            accumulators["png"].update(levels / np.float32(65535), mask, *names)
            accumulators["logits"].update(logits, mask, *names)
            save(tmp_path / "masks" / folder / f"{frame}.png", mask.astype(np.uint8))
            save(tmp_path / "npy" / folder / f"{frame}.npy", probability)
            save(tmp_path / "png" / folder / f"{frame}.png", levels)
            save(tmp_path / "logits" / folder / f"{frame}.npy", logits)
    for kind, protocol in kinds.items():
        out = tmp_path / f"{kind}.json"
        paths = ["--predictions", str(tmp_path / kind), "--masks", str(tmp_path / "masks"), "--output", str(out)]
        main([*paths, "--protocol", protocol, *(["--logits"] if kind == "logits" else [])])
        result = json.loads(out.read_text())[protocol]
        for name, value in (accumulators[kind].compute() | accumulators[kind].counts()).items():
            assert result[name] == value, (kind, name)
        assert list(result.get("sequences", [])) == [folder for folder in folders if folder]
        if kind == "npy":
            assert (result["ap"], result["auc"]) == (curves.compute().ap, curves.compute().auc)


def test_list_file_names_what_is_measured(flat):
    names = flat / "test.txt"
    names.write_text("1.png\r\n\n2\n")
    assert run(flat, "--list", str(names))["standard"]["images"] == 2
    names.write_text("1\n77\n")
    with pytest.raises(InputError, match=r"mask has no mask for 77 of the list"):
        run(flat, "--list", str(names))


def test_per_image_and_curves(flat):
    run(
        flat,
        "--per_image",
        str(flat / "images.csv"),
        "--curves",
        str(flat / "curves"),
        "--protocol",
        "standard",
        "dtum",
    )
    rows = list(csv.DictReader((flat / "images.csv").open()))
    assert [(row["protocol"], row["frame"], row["iou"]) for row in rows] == [
        *(("standard", "1", "1.0"), ("standard", "2", "1.0"), ("standard", "10", "0.0")),
        *(("dtum", "1", ""), ("dtum", "2", ""), ("dtum", "10", "")),
    ]
    names = {"curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png"}
    assert {path.name for path in (flat / "curves").iterdir()} == names


def test_a_report_of_maps_without_a_dataset(flat, monkeypatch):
    """Of images in flat folders; then with a folder of images, and with sequences beside them."""
    monkeypatch.setattr(plots, "saved_axes", lambda path, *_: no_axes(path))
    metrics = run(flat, "--output_dir", str(flat / "a"))
    saved = json.loads((flat / "a" / "metrics.json").read_text())
    assert (saved["model"], saved["dataset"], saved["split"], saved["tracks"]) == ("pred", flat.name, "all", [])
    assert {name: saved["protocols"]["standard"][name] for name in ("iou", "ap")} == {
        name: metrics["standard"][name] for name in ("iou", "ap")
    }
    rows = list(csv.DictReader((flat / "a" / "detections.csv").open()))
    assert [(row["sequence"], row["frame"], row["x"], row["y"]) for row in rows] == [
        ("1", "1", "4.5", "4.5"),
        ("2", "2", "4.5", "4.5"),
    ]
    assert read_mask(flat / "a" / "masks" / "2.png").sum() == 4 and not (flat / "a" / "tracks.csv").exists()
    images = flat / "images"
    for name in ("1", "2"):
        save(images / f"{name}.png", np.full((20, 24), 90, np.uint8))
    with pytest.raises(InputError, match=r"images has no image for 10; names and folders"):
        run(flat, "--output_dir", str(flat / "b"), "--images", str(images))
    save(images / "10.png", np.full((20, 24), 90, np.uint8))
    for frame in range(3):
        for kind in ("pred", "mask", "images"):
            save(flat / kind / "moving" / f"{frame}.png", (spot(row=4 + frame) * 255).astype(np.uint8))
    run(flat, "--output_dir", str(flat / "b"), "--images", str(images), "--min_track", "2")
    assert len(list(csv.DictReader((flat / "b" / "tracks.csv").open()))) == 3
    assert len(list(csv.DictReader((flat / "b" / "detections.csv").open()))) == 2 + 3
    page = (flat / "b" / "report.html").read_text(encoding="utf-8")
    assert "<b>moving</b>: 1 of 1 target found, 0 false tracks" in page


def test_list_protocols(capsys):
    main(["--list_protocols"])
    text = capsys.readouterr().out
    for row in PROTOCOLS.values():
        assert f"{row.name}: {row.source}" in text
    assert "logit > 0.5" in text and "P / max(P) > 0.5" in text and "counting 0" in text
    rules = {part.split(":")[0]: part for part in text.split("\n\n")}
    for name, protocol in PROTOCOLS.items():
        for rule in (protocol.iou, protocol.niou, protocol.hiou, protocol.matching, protocol.pd, protocol.false_pixels):
            assert rule is None or rule.__doc__ in rules[name]
    assert "targets / (targets + images without targets)" in rules["pyirstdmetrics"]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("pred/3.npy", spot(), r"has no mask for the prediction 3; names and folders"),
        ("mask/3.png", spot(), r"has no prediction for the mask 3; add them, or name the images with --list"),
        ("pred/1.npy", spot(size=(20, 25)), r"1\.npy is 25 x 20 and .*1\.png is 24 x 20 \(width x height\)"),
        (
            "pred/1.npy",
            spot(1.5),
            r"1\.npy: scores run from 0 to 1\.5, expected probabilities in 0\.\.1; scale other responses",
        ),
        ("pred/1.npy", spot(np.nan), r"1\.npy: the score map holds NaN"),
        ("pred/1.npy", np.zeros((3, 20, 24)), r"1\.npy has the shape \(3, 20, 24\); expected \[H, W\]"),
        ("pred/1.npy", np.array(["a"]), r"1\.npy holds <U1 of shape"),
        ("pred/1.png", spot().astype(np.uint8), r"1\.npy and .*1\.png have the same name"),
    ],
)
def test_clear_errors(flat, name, array, message):
    save(flat / name, array)
    with pytest.raises(InputError, match=message):
        run(flat)
    assert not (flat / "out.json").exists()


def test_names_match_as_in_datasets_and_hidden_folders_do_not_count(tmp_path):
    """Spaces do not count (IRDST); a killed run may leave the hidden folder of a file that it was writing."""
    save(tmp_path / "pred" / "clip 7" / "1 (3).npy", spot())
    save(tmp_path / "pred" / ".1(3)-x" / "1(3).npy", spot())
    save(tmp_path / "mask" / "clip7" / "1(3).png", spot())
    (pair,) = find_pairs(tmp_path / "pred", tmp_path / "mask", {"clip 7/1(3)"})
    assert (pair.sequence, pair.frame) == ("clip 7", "1 (3)")  # but are shown as they are in the prediction's name
    (tmp_path / "groups.csv").write_text("clip7/1 (3),dim\n")
    metrics = run(tmp_path, "--groups", str(tmp_path / "groups.csv"))["standard"]
    assert list(metrics["sequences"]) == ["clip 7"] and metrics["groups"]["dim"]["pd"] == 1
    save(tmp_path / "pred" / "clip7" / "2.npy", spot())
    save(tmp_path / "mask" / "clip7" / "2.png", spot())
    assert len({pair.sequence for pair in find_pairs(tmp_path / "pred", tmp_path / "mask")}) == 1
    save(tmp_path / "pred" / "clip7" / "1(3).npy", spot())
    with pytest.raises(InputError, match=r"1 ?\(3\)\.npy and .*1 ?\(3\)\.npy have the same name; keep one of them"):
        find_pairs(tmp_path / "pred", tmp_path / "mask")


def test_infinite_logits_are_refused(tmp_path):
    save(tmp_path / "pred/1.npy", np.where(spot() > 0, np.inf, -3).astype(np.float32))
    save(tmp_path / "mask/1.png", (spot() * 255).astype(np.uint8))
    with pytest.raises(InputError, match=r"1\.npy holds infinite values"):
        run(tmp_path, "--logits")


def test_the_output_folder_may_not_hold_what_is_measured(flat):
    with pytest.raises(InputError, match=r"holds --predictions .*pred; choose another folder"):
        run(flat, "--output_dir", str(flat))
    with pytest.raises(InputError, match=r"holds --masks .*mask; choose another folder"):
        run(flat, "--output_dir", str(flat / "mask"))
    (flat / "old" / "masks").mkdir(parents=True)  # perhaps those of a dataset
    with pytest.raises(InputError, match=r"old holds masks, but no run\.json; choose another --output_dir"):
        run(flat, "--output_dir", str(flat / "old"))


def test_errors_of_folders_and_options(flat, tmp_path):
    (flat / "empty").mkdir()
    for arguments, message in [
        (["--masks", "x"], "--predictions is missing"),
        (["--predictions", "x"], "--masks is missing; give the folder of masks, or the dataset"),
        (["--predictions", "x", "--masks", "y", "--dataset", "z"], "--dataset does not go with --masks; leave one"),
        (["--predictions", "x", "--masks", "y", "--split", "test"], "--split does not go with --masks"),
        (["--predictions", "x", "--masks", "y", "--skip_unusable"], "--skip_unusable does not go with --masks"),
        (["--predictions", "x", "--masks", "y", "--any_category"], "--any_category does not go with --masks"),
        (["--predictions", "x", "--dataset", "y", "--images", "z"], "--images does not go with --dataset"),
        (["--boxes", "x", "--detections", "y", "--output_dir", "z"], "--output_dir does not go with --boxes"),
        (["--boxes", "x", "--detections", "y", "--min_track", "1"], "--min_track does not go with --boxes"),
        (["--detections", "x"], "--boxes is missing; give both"),
        (["--predictions", str(flat / "no"), "--masks", str(flat / "mask")], "no is no folder"),
        (["--predictions", str(flat / "empty"), "--masks", str(flat / "mask")], r"empty holds no \.npy, \.mat, "),
        (["--predictions", str(flat / "pred"), "--masks", str(flat / "mask"), "--protocol", "x"], "'x' is not known"),
        (
            ["--predictions", str(flat / "pred"), "--masks", str(flat / "mask"), "--logits"],
            "png, which cannot hold logits",
        ),
        (
            ["--predictions", str(flat / "pred"), "--masks", str(flat / "mask"), "--min_track", "2"],
            "--min_track 2: without --output_dir there are no tracks",
        ),
        (
            [
                *("--predictions", str(flat / "pred"), "--masks", str(flat / "mask"), "--min_track", "2"),
                *("--output_dir", str(flat / "out")),
            ],
            "--min_track 2: .* has single images",
        ),
        (["--min_track", "0"], "--min_track is 0, expected at least 1"),
        (["--min_track", "x"], "--min_track is 'x', expected integer"),
        (["--track_speed", "0"], "--track_speed is 0.0, expected a number above 0"),
        (["--track_speed", "nan"], "--track_speed is 'nan', expected number"),
        (["--report_pictures", "-1"], "--report_pictures is -1, expected at least 0"),
    ]:
        with pytest.raises(InputError, match=message):
            main(arguments)
    (flat / "pred/1.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(InputError, match=r"cannot read .*1\.npy"):
        run(flat)


def test_boxes_of_anybodys_detections(tmp_path, capsys):
    truth = {
        "images": [{"id": 5}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}],
    }
    boxes = {0.9: [9, 9, 2, 2], 0.8: [0, 0, 4, 3]}
    detections = [{"image_id": 5, "category_id": 1, "bbox": box, "score": score} for score, box in boxes.items()]
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "detections.json", detections)
    files = ["--boxes", str(tmp_path / "truth.json"), "--detections", str(tmp_path / "detections.json")]
    main([*files, "--output", str(tmp_path / "metrics.json")])
    assert "AP50 50.00, precision 50.00, recall 100.00, F1 66.67" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["recall"] == 1
    with pytest.raises(InputError, match="--detections is missing"):
        main(files[:2])


def test_responses_of_any_range_are_normalised(tmp_path):
    response = np.array([[0, 1, 2], [30, 37.5, 18], [0, 0, 0]])
    save(tmp_path / "pred" / "a.npy", response)
    save(tmp_path / "mask" / "a.png", np.uint8([[0, 0, 0], [255, 255, 0], [0, 0, 0]]))
    assert run(tmp_path, "--normalize")["standard"]["iou"] == 1, "30 and 37.5 are above half of 37.5, 18 is not"


def test_predictions_that_are_masks_are_noticed(tmp_path, capsys):
    target = np.uint8([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    for name, mask in (("a", target), ("b", 0 * target)):
        save(tmp_path / "pred" / f"{name}.png", mask)
        save(tmp_path / "mask" / f"{name}.png", target * 255)
    result = run(tmp_path, "--output_dir", str(tmp_path / "all"))["standard"]
    assert result["iou"] == 0.5
    assert result["ap"] is None
    assert result["auc"] is None
    assert "masks of the values 0 and 1" in capsys.readouterr().out
    assert '"ranks": false' in (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    rows = csv.DictReader((tmp_path / "all" / "curves" / "curves.csv").open())
    points = {(row["precision"], row["recall"], row["pd"], row["fa"]) for row in rows}
    assert points == {("1.0", "0.5", "0.5", "0.0")}  # at every threshold


def test_names_with_an_ending(tmp_path):
    for name in "ab":
        save(tmp_path / "pred" / f"{name}_PSTNN.npy", spot())
        save(tmp_path / "pred" / f"{name}_other.npy", spot() * 0)
        save(tmp_path / "mask" / f"{name}.png", spot().astype(np.uint8) * 255)
    assert run(tmp_path, "--suffix", "_PSTNN")["standard"]["iou"] == 1
    for name in "ab":
        (tmp_path / "pred" / f"{name}_other.npy").unlink()
    with pytest.raises(InputError, match="all predictions end in _PSTNN: give --suffix _PSTNN"):
        run(tmp_path)


def test_a_list_chooses_frames_of_a_dataset(tmp_path, capsys):
    write_sequences(tmp_path / "set", ["s", "t"], frames=2)
    write_lists(tmp_path / "set", train=["s"], test=["t"])
    save(tmp_path / "pred" / "t" / "1.npy", np.zeros((32, 40)))
    (tmp_path / "few.list").write_text("t/1\n")
    options = ["--predictions", str(tmp_path / "pred"), "--dataset", str(tmp_path / "set")]
    main([*options, "--list", str(tmp_path / "few.list")])
    assert "1 image, 1 target" in capsys.readouterr().out
    (tmp_path / "few.list").write_text("s/1\n")
    with pytest.raises(InputError, match="has no s/1 of the list in this split"):
        main([*options, "--list", str(tmp_path / "few.list")])


def test_chosen_frames_keep_their_times(tmp_path):
    """Two of ten frames, which are as far apart as in the whole folder of masks."""
    for folder in ("s", "t"):
        for frame in range(10):
            for kind in ("pred", "mask"):
                save(tmp_path / kind / folder / f"f{frame}.png", spot().astype(np.uint8))
    pairs = find_pairs(tmp_path / "pred", tmp_path / "mask", {"t/f4", "t/f8", "s"})
    assert [pair.time for pair in pairs] == [*range(10), 4, 8]
    frames = pair_frames("set", pairs, [None] * len(pairs)).frames
    assert [frame.time for frame in frames] == [*range(10), 4, 8]


def test_what_cannot_be_used_of_a_dataset_is_left_out_on_demand(tmp_path, capsys):
    write_pairs(tmp_path / "set" / "images", tmp_path / "set" / "masks", ["a", "b", "c"])
    write_lists(tmp_path / "set" / "50_50", train=["a"], test=["b", "c"])
    write_lists(tmp_path / "set" / "80_20", train=["a", "b"], test=["c"])
    write_image(tmp_path / "set" / "masks" / "c.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / "pred" / "b.npy", np.zeros((32, 40)))
    options = ["--predictions", str(tmp_path / "pred"), "--dataset", str(tmp_path / "set"), "--split_folder", "50_50"]
    with pytest.raises(InputError, match=r"c\.png is 9 x 9.*--skip_unusable"):
        main(options)
    main([*options, "--skip_unusable", "--output_dir", str(tmp_path / "out")])
    assert "1 image, 1 target" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["split_source"] == "50_50/train.txt, 50_50/test.txt" and len(facts["left_out"]) == 1
