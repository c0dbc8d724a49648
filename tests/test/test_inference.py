"""The inference command on tiny datasets: every file read back, and bit-equal results however the work is done."""

import csv
import json
import shutil
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from istd.datasets import open_dataset, open_datasets
from istd.datasets.catalog import CATALOG
from istd.datasets.coco_truth import coco_truth
from istd.models import Network, build_model
from istd.test_script import evaluate, inference, measurement
from istd.test_script.network_maps import loader_batches
from istd.test_script.predictor import PUBLISHED_SCALES, Predictor
from istd.test_script.predictor.detections import find_detections
from istd.test_script.results import shards
from istd.test_script.results.frame_set import FrameRef, FrameSet
from istd.test_script.results.result_files import QUEUE_LENGTH, background_calls
from istd.test_script.results.set_results import halves_by_snr, print_metrics
from istd.test_script.results.shards import split_work
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.folder_lock import locked_folder
from istd.utils.images import read_grey
from istd.utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from istd.utils.metrics.curves import CurveAccumulator
from tests.reference.results import result_bytes

pytestmark = pytest.mark.usefixtures("undrawn")
HEIGHT, WIDTH = 40, 56  # no multiples of 32


def draw_frame(random, height=HEIGHT, width=WIDTH):
    """A noisy frame with one target, and its mask; both uint8."""
    frame = random.normal(90, 8, (height, width))
    mask = np.zeros((height, width), np.uint8)
    row, column = random.integers(2, height - 4), random.integers(2, width - 4)
    frame[row : row + 3, column : column + 2] += 120
    mask[row : row + 3, column : column + 2] = 255
    return np.clip(frame, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """A dataset of sequences: one to train on, two of three frames to test on."""
    root = tmp_path_factory.mktemp("data") / "TINY"
    random = np.random.default_rng(5)
    for name in ("a", "b", "c"):
        for frame in range(3):
            for kind, image in zip(("images", "masks"), draw_frame(random), strict=True):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / kind / name / f"{frame}.png"), image)
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b\nc\n")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small DATransNet with random weights whose logits lie around 0, so that masks are not all one value."""
    torch.manual_seed(0)
    model = build_model("datransnet", image_size=32, width=4).eval()
    bias = [parameter for parameter in model.parameters() if parameter.numel() == 1][-1]
    with torch.no_grad():
        bias -= model(torch.rand(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.35).median()
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    save_checkpoint(path, model, {})
    return path


def arguments(checkpoint, dataset, output, *more):
    return ["--model_path", str(checkpoint), "--dataset", str(dataset), "--output_dir", str(output), *more]


OPTIONS = ("--flip", "--save_probabilities", "--protocol", "standard", "sgmp-2025")


@pytest.fixture(scope="module")
def done(undrawn, checkpoint, sequences, tmp_path_factory):
    """The output folder of a plain run with one frame at a time."""
    output = tmp_path_factory.mktemp("run") / "predict"
    inference.main(arguments(checkpoint, sequences, output, *OPTIONS, "--batch_size", "1"))
    return output


def contents(folder):
    return {str(file.relative_to(folder)): result_bytes(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def table(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_file_holds_what_the_network_says(done, checkpoint, sequences):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", flip=True)
    standard, logits, curves = build_metric("standard"), build_metric("sgmp-2025"), CurveAccumulator()
    expected_rows = []
    for sequence in ("b", "c"):
        for number in range(3):
            grey = read_grey(sequences / "images" / sequence / f"{number}.png")
            truth = cv2.imread(str(sequences / "masks" / sequence / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            (maps,) = predictor.score_maps([predictor.prepare(grey)[None]], [grey.shape], logit=True, log_odds=True)
            standard.update(maps.probability, truth, sequence, str(number))
            logits.update(maps.logit, truth, sequence, str(number))
            curves.update(maps.log_odds, truth, scale="logit")
            mask = maps.probability > 0.5
            expected_rows += [(sequence, str(number), detection) for detection in find_detections(mask, maps.log_odds)]
            read = cv2.imread(str(done / "masks" / sequence / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(read, mask * 255)
            read = cv2.imread(str(done / "probabilities" / sequence / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            assert read.dtype == np.uint16
            np.testing.assert_allclose(read / 65535, maps.probability, atol=0.5 / 65535 + 1e-7)
    assert len(expected_rows) > 0 and not mask.all()

    rows = table(done / "detections.csv")
    assert len(rows) == len(expected_rows)
    for row, (sequence, frame, detection) in zip(rows, expected_rows, strict=True):
        assert (row["sequence"], row["frame"]) == (sequence, frame)
        for name, value in detection._asdict().items():
            assert float(row[name]) == pytest.approx(value, abs=6e-4 if name in "xy" else 1e-6)

    coco = json.loads((done / "detections_coco.json").read_text())
    ids = {("b", "0"): 4, ("b", "1"): 5, ("b", "2"): 6, ("c", "0"): 7, ("c", "1"): 8, ("c", "2"): 9}  # "a" has 1 to 3
    assert [(entry["image_id"], entry["file_name"], entry["bbox"]) for entry in coco] == [
        (ids[sequence, frame], f"images/{sequence}/{frame}.png", [region.left, region.top, region.width, region.height])
        for sequence, frame, region in expected_rows
    ]

    saved = json.loads((done / "metrics.json").read_text())
    for metric in (standard, logits):
        metrics = saved["protocols"][metric.protocol.name]
        for name, value in metric.compute().items():
            assert metrics[name] == (None if value is None or np.isnan(value) else value)
        per_image = [row for row in table(done / "per_image.csv") if row["protocol"] == metric.protocol.name]
        assert [row["iou"] for row in per_image] == [str(values["iou"]) for values in metric.image_metrics()]
        per_sequence = [row for row in table(done / "per_sequence.csv") if row["protocol"] == metric.protocol.name]
        assert {row["sequence"]: float(row["iou"]) for row in per_sequence} == {
            name: values["iou"] for name, values in metric.sequence_metrics().items()
        }
    computed = curves.compute()
    assert saved["protocols"]["standard"]["ap"] == computed.ap
    assert [float(row["recall"]) for row in table(done / "curves" / "curves.csv")] == computed.recall.tolist()
    for name in ("precision_recall", "roc", "pd_over_fa"):
        assert cv2.imread(str(done / "curves" / f"{name}.png")) is not None


def with_sequences(metrics):
    """The metrics of the sequences, their mean, and then those of the set without them."""
    return [*metrics.pop("sequences").values(), metrics.pop("sequence_mean"), metrics]


def test_saved_maps_are_evaluated_to_the_same_bits(checkpoint, sequences, tmp_path):
    out = tmp_path / "out"
    inference.main(arguments(checkpoint, sequences, out, "--save_maps", "--protocol", "standard", "sgmp-2025"))
    measured = json.loads((out / "metrics.json").read_text())["protocols"]
    for folder, protocol, more in (("probabilities", "standard", []), ("logits", "sgmp-2025", ["--logits"])):
        saved = ["--predictions", out / folder, "--masks", sequences / "masks", "--list", sequences / "val.txt"]
        words = [*saved, *more, "--protocol", protocol, "--output", tmp_path / "evaluated.json"]
        evaluate.main([str(word) for word in words])
        evaluated = json.loads((tmp_path / "evaluated.json").read_text())[protocol]
        for ours, theirs in zip(with_sequences(evaluated), with_sequences(measured[protocol]), strict=True):
            for name in ("ap", "auc"):  # probabilities are rounded to float32 when they are saved
                assert ours.pop(name, None) == pytest.approx(theirs.pop(name, None), abs=1e-3)
            assert ours == theirs


def test_several_datasets_get_a_folder_each_and_one_table(done, checkpoint, sequences, tmp_path, capsys):
    other = tmp_path / "OTHER"
    shutil.copytree(sequences, other)
    (other / "val.txt").write_text("c\n")
    inference.main(arguments(checkpoint, f"{sequences}+{other}", tmp_path / "out", *OPTIONS))
    assert contents(tmp_path / "out" / "TINY") == contents(done)
    assert not (tmp_path / "out" / "metrics.json").exists()
    rows = table(tmp_path / "out" / "per_dataset.csv")
    assert [(row["protocol"], row["dataset"]) for row in rows] == [
        (protocol, name) for protocol in ("standard", "sgmp-2025") for name in ("TINY", "OTHER")
    ]
    saved = json.loads((tmp_path / "out" / "OTHER" / "metrics.json").read_text())["protocols"]
    assert (rows[3]["iou"], rows[3]["images"]) == (str(saved["sgmp-2025"]["iou"]), "3")
    assert "dataset (standard)" in capsys.readouterr().out
    with pytest.raises(InputError, match="different names"):
        inference.main(arguments(checkpoint, f"{sequences}+{sequences}", tmp_path / "out"))


def test_a_batch_of_four_changes_nothing(done, checkpoint, sequences, tmp_path):
    inference.main(arguments(checkpoint, sequences, tmp_path, *OPTIONS, "--batch_size", "4", "--num_workers", "1"))
    assert contents(tmp_path) == contents(done)


def test_an_interrupted_run_goes_on_where_it_stopped(done, checkpoint, sequences, tmp_path, monkeypatch):
    score_maps, calls = Predictor.score_maps, []

    def counted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # within the second sequence
            raise KeyboardInterrupt
        return score_maps(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "score_maps", counted)
    command = arguments(checkpoint, sequences, tmp_path, *OPTIONS, "--batch_size", "1")
    with pytest.raises(KeyboardInterrupt):
        inference.main(command)
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == ["000000.json"]
    assert not (tmp_path / "metrics.json").exists()
    calls.clear()
    monkeypatch.setattr(Predictor, "score_maps", lambda *a, **o: calls.append(1) or score_maps(*a, **o))
    inference.main([*command, "--resume"])
    assert len(calls) == 3  # the second sequence alone; the report needs no further pass
    assert contents(tmp_path) == contents(done)
    with pytest.raises(InputError, match="flip"):
        inference.main([*(word for word in command if word != "--flip"), "--resume"])
    other = sequences.parent / "OTHER"
    shutil.copytree(sequences, other)
    with pytest.raises(InputError, match="choose another --output_dir"):
        inference.main(arguments(checkpoint, other, tmp_path))


def test_a_run_holds_its_folder_and_is_bound_to_its_images(checkpoint, sequences, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measurement, "write_report", lambda *_: None)
    root, output = tmp_path / "TINY", tmp_path / "out"
    shutil.copytree(sequences, root)
    command = arguments(checkpoint, root, output, "--protocol", "standard")
    shutil.copytree(sequences, tmp_path / "OTHER")
    for names in (root, f"{root}+{tmp_path / 'OTHER'}"):  # the folder of several datasets, too
        with locked_folder(output), pytest.raises(InputError, match=r"another command is writing to .*out; wait"):
            inference.main(arguments(checkpoint, names, output, "--protocol", "standard"))
    inference.main(command)
    for file in (root / "masks").rglob("*.png"):
        cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH), np.uint8))
    inference.main([*command, "--resume"])
    saved = json.loads((output / "metrics.json").read_text())
    assert saved["protocols"]["standard"]["targets"] == 0 and saved["frames"] == 6
    assert "of other images, masks or boxes" in capsys.readouterr().out
    (root / "train.txt").write_text("b\n")
    (root / "val.txt").write_text("a\nc\n")  # as many, but others
    inference.main([*command, "--resume"])
    assert {row["sequence"] for row in table(output / "per_sequence.csv")} == {"a", "c"}
    assert not (output / "masks" / "b").exists()


def test_code_options_interface_and_boxes_determine_the_results(sequences, tmp_path):
    """Of a network from code, the checkpoint may hold the weights alone."""
    for name, sign in (("net", ""), ("other", "-")):
        (tmp_path / f"{name}.py").write_text(
            "from torch import nn\n\nclass Net(nn.Conv2d):\n    def __init__(self, gain=1):\n"
            f"        super().__init__(1, 1, 1)\n\n    def forward(self, x):\n        return {sign}super().forward(x)\n"
        )
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "net.pth")
    root = tmp_path / "TINY"
    shutil.copytree(sequences, root)

    def facts(file="net", *more):
        words = arguments(tmp_path / "net.pth", root, tmp_path, "--model", f"{tmp_path / file}.py:Net", *more)
        args = inference.parse_arguments(words)
        (job,) = inference.prepare_jobs(open_datasets(args.dataset, None, None), args, torch.device("cpu"))
        return job.facts

    before = facts()
    assert facts() == before
    changed = {
        "code_sha256": facts("other"),
        "model_options": facts("net", "--model_options", "gain=2"),
        "interface": facts("net", "--interface", "size_multiple=8"),
    }
    write_json(root / "boxes.json", coco_truth(open_dataset(root)))
    for name, after in (changed | {"data": facts()}).items():
        assert {key for key in before if before[key] != after[key]} == {name}


def test_maps_that_are_not_finite_are_an_error(checkpoint, sequences, tmp_path, monkeypatch):
    score_maps = Predictor.score_maps

    def overflowing(*arguments, **options):
        *good, last = score_maps(*arguments, **options)
        return [*good, last._replace(log_odds=np.full_like(last.log_odds, np.nan))]

    monkeypatch.setattr(Predictor, "score_maps", overflowing)
    with pytest.raises(InputError, match=r"the network's map of \w/\S+ is not finite; check the weights"):
        inference.main(arguments(checkpoint, sequences, tmp_path))
    assert not (tmp_path / "metrics.json").exists() and not (tmp_path / "report.html").exists()


def test_single_images_of_mixed_sizes(checkpoint, tmp_path):
    root = tmp_path / "MIXED"
    random = np.random.default_rng(6)
    names = ["one", "two", "three", "four"]
    sizes = [(33, 47), (64, 64), (20, 90), (64, 64)]
    for name, size in zip(names, sizes, strict=True):
        for kind, image in zip(("images", "masks"), draw_frame(random, *size), strict=True):
            (root / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / kind / f"{name}.png"), image)
    (root / "img_idx").mkdir()
    (root / "img_idx" / "train_MIXED.txt").write_text("one\n")
    (root / "img_idx" / "test_MIXED.txt").write_text("\n".join(names[1:]))
    inference.main(arguments(checkpoint, root, tmp_path / "out", "--protocol", "datransnet"))
    for name, size in zip(names[1:], sizes[1:], strict=True):
        assert cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED).shape == size
    assert {row["frame"] for row in table(tmp_path / "out" / "per_image.csv")} == set(names[1:])
    assert [row["sequence"] for row in table(tmp_path / "out" / "per_sequence.csv")] == ["all images"]


class ClipNetwork(Network):
    """A multi-frame stand-in: a convolution over six frames, preprocessed as SGMP-UNet's."""

    name, num_frames, in_channels, size_multiple = "sgmp_unet", 6, 3, 32

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(18, 1, (1, 3), padding=(0, 1))
        torch.manual_seed(3)
        nn.init.normal_(self.conv.weight, 0.1, 0.1)  # bright targets get positive logits

    def forward(self, clip):
        return self.conv(clip.flatten(1, 2))


def test_the_protocols_of_both_sgmp_releases(checkpoint, sequences, tmp_path, monkeypatch):
    """One run with --flip --msc against the released test codes, written out plainly."""
    model = ClipNetwork().eval()
    monkeypatch.setattr(inference, "load_recipe", lambda *_, **__: (model, {}))
    monkeypatch.setattr(measurement, "write_report", lambda *_: None)
    protocols = ("sgmp-2025", "sgmp-2026")
    inference.main(arguments(checkpoint, sequences, tmp_path, "--flip", "--msc", "--protocol", *protocols))

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    metrics = {name: build_metric(name) for name in protocols}
    for sequence in ("b", "c"):
        frames = np.stack([read_grey(sequences / "images" / sequence / f"{i}.png") for i in range(3)])
        short = torch.from_numpy(frames)[:, None]
        short = F.interpolate(short, size=(320, 448), mode="bilinear", antialias=True)  # short side 320, long 448
        short = (short - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        for target in range(3):
            clip = short[[(target + offset) % 3 for offset in (-3, -2, -1, 0, 1, 2)]]  # wraps around
            logits, probabilities = [], []
            for flip in (False, True):
                view = clip.flip(-1) if flip else clip
                scores = []
                for scale in PUBLISHED_SCALES:
                    sides = [-(-int(scale * side) // 32) * 32 for side in view.shape[-2:]]
                    scaled = F.interpolate(view, size=sides, mode="bilinear", align_corners=False)
                    at_mask = F.interpolate(model(scaled[None]), size=(HEIGHT, WIDTH), mode="bilinear")[0, 0]
                    at_mask = (at_mask.flip(-1) if flip else at_mask).detach()
                    scores.append(at_mask.sigmoid())
                    if scale == 1.0:
                        logits.append(at_mask)
                probabilities.append(torch.stack(scores).mean(0))
            truth = cv2.imread(str(sequences / "masks" / sequence / f"{target}.png"), cv2.IMREAD_UNCHANGED)
            metrics["sgmp-2025"].update(torch.stack(logits).mean(0), truth, sequence, str(target))
            metrics["sgmp-2026"].update(torch.stack(probabilities).mean(0).clamp(0, 1), truth, sequence, str(target))
    saved = json.loads((tmp_path / "metrics.json").read_text())["protocols"]
    for name, metric in metrics.items():
        for key, value in metric.compute().items():
            assert saved[name][key] == (None if value is None else pytest.approx(value, rel=1e-3)), (name, key)
    assert 0 < saved["sgmp-2026"]["iou"] < 1 and saved["sgmp-2025"]["iou"] != saved["sgmp-2026"]["niou"]


def test_default_protocols_are_standard_and_the_papers():
    protocols = inference.choose_protocols(["dtum", "all"], SimpleNamespace(protocol=None))
    assert len(protocols) == len(PROTOCOLS) == len(set(protocols)) and protocols[0].name == "dtum"
    names = [row.name for row in inference.choose_protocols(None, SimpleNamespace(protocol="sgmp-2026"))]
    assert names == ["standard", "sgmp-2026"]
    with pytest.raises(InputError, match="not known"):
        inference.choose_protocols(["standart"], SimpleNamespace(protocol=None))


def test_published_metrics_stand_beside_ours(capsys):
    intervals = {"unit": "images", "units": 7, "coverage": 0.95, "metrics": {}}
    ours = {"iou": 0.5, "niou": 0.4, "pd": 0.9, "fa": 1e-5, "images": 7, "targets": 9, "intervals": intervals}
    notes = inference.protocol_notes({"protocols": ["sgmp-2026"], "flip": True, "scales": [1.0]})
    print_metrics({"sgmp-2026": ours}, CATALOG["IRDST"].metrics, notes)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-4:] for line in lines if "sgmp-20" in line and "note" not in line] == [
        ["50.00", "40.00", "90.00", "10.00"],
        ["60.80", "59.28", "98.68", "17.83"],
        ["63.63", "61.18", "97.96", "12.74"],
    ]
    assert lines[-1].endswith("of sgmp-2026 are measured with --flip --msc, these with --flip")


def test_published_metrics_of_another_augmentation_have_a_note():
    def notes(flip, *scales):
        lines = inference.protocol_notes({"protocols": list(PROTOCOLS), "flip": flip, "scales": list(scales)})
        return [note.split("metrics of ")[1] for note in lines]

    assert notes(True, 1.0, 1.2) == [
        "sgmp-2025 are measured with --flip, these with --flip --msc",
        "datransnet are measured without --flip and --msc, these with --flip --msc",
    ]
    assert [note.split()[0] for note in notes(True, 1.0)] == ["sgmp-2026", "datransnet"]
    assert [note.split()[0] for note in notes(False, 1.0)] == ["sgmp-2025", "sgmp-2026"]


def test_a_rendered_datasets_metrics_are_halved_by_snr():
    metric = MetricAccumulator(PROTOCOLS["standard"])
    mask = np.zeros((32, 32), bool)
    mask[4:6, 4:6] = True
    for frame, found in (("0", 0), ("1", 1), ("2", 1), ("3", 0), ("4", 1)):  # frame 4 is not in the table
        metric.update(mask * float(found), mask, "s", frame)
    halves = halves_by_snr(
        metric, {("s", "0"): 2.0, ("s", "1"): 5.0, ("s", "2"): 3.0, ("s", "3"): 6.0, ("t", "0"): 1.0}
    )
    assert {name: half["pd"] for name, half in halves.items()} == {"SNR up to 3.0": 0.5, "SNR above 3.0": 0.5}
    halves = halves_by_snr(metric, {("s", "0"): 2.0, ("s", "1"): 5.0, ("s", "2"): 4.0})
    assert {name: half["pd"] for name, half in halves.items()} == {"SNR up to 4.0": 0.5, "SNR above 4.0": 1.0}
    assert halves_by_snr(metric, {}) == {}


def test_shards_do_not_cross_sequences_and_workers_get_whole_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_FRAMES", 4)

    def items_of(*sequences):
        frames = [FrameRef(name, str(item), item, None, None, item, "") for item, name in enumerate(sequences)]
        return [shard.items for shard in split_work(FrameSet("set", frames))]

    items = items_of(*"aaaaaabbb")
    assert items == [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    assert items_of(*[None] * 6) == [[0, 1, 2, 3], [4, 5]]
    batches = list(loader_batches(items, batch_size=2, num_workers=2))
    assert batches[0::2][:2] == [[0, 1], [2, 3]] and batches[1] == [4, 5]
    assert sorted(item for batch in batches for item in batch) == list(range(9))


def test_background_calls_keep_their_order_wait_and_raise():
    seen = []
    with background_calls() as submit:
        for number in range(100):
            submit(seen.append, number)
    assert seen == list(range(100))

    gate, submitted = threading.Event(), []

    def submit_many():
        with background_calls() as submit:
            submit(gate.wait)
            for number in range(100):
                submit(str, number)
                submitted.append(number)

    thread = threading.Thread(target=submit_many)
    thread.start()
    thread.join(0.2)
    assert len(submitted) == QUEUE_LENGTH - 1  # the caller waits
    gate.set()
    thread.join()
    assert len(submitted) == 100

    def fail():
        raise InputError("disk full")

    gate.clear()
    with pytest.raises(InputError, match="disk"), background_calls() as submit:
        for function, *values in ((gate.wait,), (fail,), (seen.append, "after the error")):
            submit(function, *values)
        gate.set()
    assert len(seen) == 100
    with pytest.raises(InputError, match="disk"), background_calls() as submit:
        while True:  # a later call raises it
            submit(fail)
