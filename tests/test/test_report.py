"""report.html: what it shows, that it needs no other file, and that Chromium runs it (where there is one)."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from scipy.special import logit

from istd.test_script import inference
from istd.test_script.map_sources import MappedFrame
from istd.test_script.measurement import FrameFiles
from istd.test_script.predictor import ScoreMaps
from istd.test_script.report import report_cases
from istd.test_script.report.frame_pictures import draw_picture, picture_stride
from istd.test_script.report.report import css_color
from istd.test_script.report.report_cases import (
    BEST,
    MAX_PER_SEQUENCE,
    MIDDLE_STEP,
    WORST,
    KeptFrames,
    choose_items,
    crop_window,
    frame_picture,
    show_case,
)
from istd.test_script.results.frame_set import FrameRef
from istd.utils.drawing import PREDICTED, TRUTH
from istd.utils.metrics import bootstrap, build_metric, tables
from istd.utils.metrics.curves import CurveAccumulator
from tests.reference.local_contrast import LocalContrast


class Page(HTMLParser):
    """Tags and attributes of a page, and the text of its elements."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def decode(url):
    """The picture of a data URL, RGB."""
    data = np.frombuffer(base64.b64decode(url.removeprefix("data:image/png;base64,")), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on two sequences: "<easy>" with bright targets, "dim" where one of three is too weak to be found."""
    root = tmp_path_factory.mktemp("data") / "TINY"
    for sequence, levels in (("a", [200]), ("<easy>", [200] * 3), ("dim", [200, 110, 200])):
        for index, level in enumerate(levels):
            image, mask = np.full((60, 80), 80, np.uint8), np.zeros((60, 80), np.uint8)
            image[30:33, 40:43], mask[30:33, 40:43] = level, 1
            for kind, picture in (("images", image), ("masks", mask)):
                (root / kind / sequence).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / kind / sequence / f"{index}.png"), picture)
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("<easy>\ndim\n")
    checkpoint = root / "any.pth"
    torch.save({}, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "load_recipe", lambda *_, **__: (LocalContrast(), {}))
        for module in (bootstrap, tables):
            patch.setattr(module, "MIN_UNITS", 2)
        output = root / "out"
        inference.main(["--model_path", str(checkpoint), "--dataset", str(root), "--output_dir", str(output)])
    return output / "report.html"


def test_the_page_needs_no_other_file(report):
    page = Page(report.read_text(encoding="utf-8"))
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"https?://|@import|url\(", report.read_text(encoding="utf-8"))


def test_the_page_shows_metrics_sequences_and_frames(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert "<easy>" in page.texts and "dim" in page.texts  # escaped, not taken for tags
    protocols, tracks = text.split("<h2>Tracks</h2>")
    # Pd: five of six; of its resamples: "dim" twice, and "<easy>" twice
    assert all("<td>83.33<small>66.67–100.00</small></td>" in part for part in (protocols, tracks))
    assert "95 % intervals over 2 sequences" in text and "annotated" not in text
    shares = {name: page.texts[page.texts.index(name) + 1] for name in ("hIoU", "missed", "false")}
    assert shares["missed"] == "16.67" and shares["false"] == "0.00"  # one target of six
    bar = [float(width) for width in re.findall(r'style="width: ([\d.]+)%"', text)]
    assert sum(bar) == pytest.approx(100, abs=0.001)
    assert [f"{width:.2f}" for width in bar[:: len(bar) - 1]] == [shares["hIoU"], "16.67"]
    cases = [part for part in page.texts if part in {f"{s}/{i}" for s in ("<easy>", "dim") for i in range(3)}]
    assert cases[0] == "dim/1" and len(cases) == len(set(cases)) == 6  # the missed target comes first
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3 + 2 * 6
    for picture in pictures:
        assert decode(picture) is not None
    crops = [attributes["src"] for _, attributes in page.tags if attributes.get("class") == "crop"]
    levels = [decode(crop)[..., 1] for crop in crops]
    assert len(levels) == 6 and {crop.shape for crop in levels} == {(48, 48)}
    assert levels[0].max() <= MIDDLE_STEP < levels[-1].max()  # missed, found
    titles = [
        page.texts.index(text) for text in ("Metrics by protocol", "Curves", "Worst and best frames", "Sequences")
    ]
    assert titles == sorted(titles)  # metrics and curves come before the frames
    assert "any on TINY" in page.texts  # the checkpoint's name
    assert {css_color(color) for color in (TRUTH, PREDICTED)} == set(
        re.findall(r"--(?:truth|prediction): (#\w+)", text)
    )
    curves = json.loads(re.search("const CURVES = (.*);", text)[1])
    assert curves["pd"][curves["logit"].index(0)] == pytest.approx(5 / 6)  # of all frames, at the threshold 0.5
    assert curves["ranks"] and curves["best_fa"] == sorted(curves["fa"]) and curves["best_pd"][-1] == max(curves["pd"])
    assert curves["best_pd"] == sorted(curves["best_pd"])  # as in pd_over_fa.png


def test_every_frame_has_a_picture_beside_the_page(report):
    pictures = json.loads(re.search("const PICTURES = (.*);", report.read_text(encoding="utf-8"))[1])
    assert {name: len(frames) for name, frames in pictures.items()} == {"<easy>": 3, "dim": 3}
    frame, file, counts = pictures["dim"][1]
    assert (frame, counts) == ("1", "IoU 0.00 %, 0 of 1 target found, 0 false-alarm px")
    assert cv2.imread(str(report.parent / file)).shape == (240, 320 + 4 + 4 * 48, 3)


def test_a_picture_shows_a_missed_target_enlarged():
    frame, mask, truth = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    truth[30:32, 10:12] = truth[30:32, 60:63] = mask[30:32, 60:63] = True  # the first is missed
    frame[truth] = 100
    picture = draw_picture(frame, mask, truth)
    crop = picture[:192, 324:]
    assert {tuple(color) for color in crop.reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 255, 255), TRUTH}
    assert (crop[96:104, 40:48] == 255).all() and (crop == 255).all(axis=2).sum() == 8 * 8
    assert (picture[:, :320] == PREDICTED).all(axis=2).any()
    assert draw_picture(frame, np.zeros_like(mask), np.zeros_like(mask)).shape == (240, 320, 3)


def test_pictures_are_spread_over_many_frames(tmp_path):
    assert [picture_stride(frames, 2000) for frames in (0, 1, 2000, 2001, 20000)] == [0, 1, 1, 2, 10]
    assert picture_stride(20000, 0) == 0
    files = FrameFiles(tmp_path, None, stride=2)
    counts = rows((None, True))[0]
    mask = np.zeros((8, 8), bool)
    for item in range(5):
        frame = FrameRef(None, f"{item}", item, tmp_path, None, item, "")
        files.write(MappedFrame(item, ScoreMaps(*[mask.astype(np.float32)] * 3), mask), frame, mask, counts)
    assert sorted(path.stem for path in tmp_path.rglob("*.jpg")) == ["000000", "000002", "000004"]


def test_the_page_runs_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    probe = report.with_name("probe.html")  # the page, sorted by its second column twice (descending)
    click = """<script>for (let i = 0; i < 2; i++) document.querySelectorAll('.sortable th button')[1].click();
    window.addEventListener("load", () => {
      const start = document.getElementById("pd").textContent;
      slider.value = 0; slider.dispatchEvent(new Event("input")); drawAll();
      document.querySelector("table.sortable tbody tr").click();
      document.title = [start, document.getElementById("pd").textContent, views[0].crop.levels.join(" "),
        linePoints([0, 1, null, 3], [0.2, 0.5, 0.6, 0.7], true).join(" "),
        Array.from(document.querySelectorAll(".scroll"), card => card.scrollWidth - card.clientWidth)].join("|");
    });</script>"""
    probe.write_text(report.read_text(encoding="utf-8").replace("</body>", click + "</body>"), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += f"--disable-component-update --disable-sync --user-data-dir={tmp_path} --window-size=1280,800 --dump-dom"
    shown = subprocess.run(
        [browser, *options.split(), probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    table = shown[shown.index('class="sortable"') :]
    assert table.index("&lt;easy&gt;") < table.index(">dim<")
    assert 'aria-sort="descending"' in table
    assert table.count('<tr class="opens">') == 2  # both sequences have pictures
    viewer = shown[shown.index("<dialog") : shown.index("</dialog>")]
    assert re.findall(r'src="([^"]+)"', viewer) == [f"report_frames/00000{item}.jpg" for item in range(3)]  # of <easy>
    assert "1: IoU" in viewer and 'open=""' in viewer
    start, moved, levels, steps, overflow = re.search("<title>(.*?)</title>", shown)[1].split("|")
    assert start == "83.3 % (5 of 6)" and moved == "100.0 % (6 of 6)"  # at thresholds 0.5 and 0.02
    crop = next(a["src"] for _, a in Page(shown).tags if a.get("class") == "crop")
    assert levels.split() == [str(level) for level in decode(crop)[..., 1].ravel()]
    assert steps == "0,0.2 1,0.2 1,0.5 3,0.5 3,0.7"  # Pd stays until the next Fa
    assert set(overflow.split(",")) == {"0"}  # no table scrolls sideways
    drawn = re.findall(r'<canvas class="(\w+)" width="\d+" height="\d+"', shown)
    assert drawn == ["frame", "image", "score", "truth", "surface"] * 6


def rows(*values):
    """Counts of images: (sequence, hit) where a hit image has IoU 1, another one 0."""
    metric = build_metric("standard")
    target = np.zeros((8, 8))
    target[3:5, 3:5] = 1
    for number, (sequence, hit) in enumerate(values):
        metric.update(target * hit, target, sequence, str(number))
    return dict(enumerate(metric.rows))


def test_worst_and_best_are_spread_over_the_sequences():
    many = rows(*([("a", 0)] * 20 + [("b", 0)] * 20 + [("c", 1)] * 40))
    worst, best = choose_items(many)
    assert len(worst) == WORST and len(best) == BEST and not set(worst) & set(best)
    several = rows(*[(f"s{number % 10}", number % 2) for number in range(100)])
    worst, _ = choose_items(several)
    names = [several[item].sequence for item in worst]
    assert max(names.count(name) for name in names) == MAX_PER_SEQUENCE
    assert choose_items(rows(("a", 0))) == ([0], [])
    images = rows(*[(None, number % 2) for number in range(60)])
    assert choose_items(images)[0] == list(range(0, 16, 2))


def test_the_window_lies_around_the_target_that_was_seen_worst():
    truth, levels = np.zeros((100, 200), bool), np.zeros((100, 200), np.uint8)
    truth[50:53, 60:63] = truth[10:12, 190:193] = True
    levels[51, 61] = 180
    assert crop_window(truth, levels) == (slice(0, 48), slice(152, 200))
    no_target = crop_window(np.zeros_like(truth), levels)  # around the false alarm
    assert no_target == (slice(51 - 24, 51 + 24), slice(61 - 24, 61 + 24))
    assert crop_window(np.zeros((20, 30), bool), np.zeros((20, 30), np.uint8)) == (slice(0, 20), slice(0, 30))


def test_a_kept_frame_has_the_curves_of_its_scores(tmp_path):
    random = np.random.default_rng(2)
    truth = np.zeros((40, 700), bool)
    truth[4:7, 9:12] = truth[20:22, 600:603] = True
    probability = (random.random(truth.shape) ** 9 * 0.7 + truth * 0.3).astype(np.float32)
    cv2.imwrite(str(tmp_path / "image.png"), random.integers(0, 256, truth.shape).astype(np.uint8))
    metric, curve = build_metric("standard"), CurveAccumulator()
    metric.update(probability, truth, "a", "7")
    curve.update(probability, truth)
    kept = KeptFrames(tmp_path / "kept")
    kept.offer(3, metric.rows[0], tmp_path / "image.png", logit(probability), truth)
    case = show_case(metric.rows[0], frame_picture(kept.folder, 3))
    data, curves = case["data"], curve.compute()
    assert case["name"] == "a/7" and data["size"] == truth.shape
    np.testing.assert_array_equal(np.array(data["matched"]) / data["targets"], curves.pd)
    np.testing.assert_array_equal(np.array(data["false_pixels"]) / truth.size, curves.fa)
    np.testing.assert_array_equal(np.array(data["hits"]) / data["positives"], curves.recall)
    assert (
        data["predicted"][MIDDLE_STEP] == metric.rows[0].predicted
        and data["hits"][MIDDLE_STEP] == metric.rows[0].intersection
    )
    frame = decode(case["frame"])  # reduced by 2, with the maxima of scores and mask
    assert frame.shape == (20, 350, 3)
    np.testing.assert_array_equal(frame[..., 2] > 0, truth.reshape(20, 2, 350, 2).any(axis=(1, 3)))


def test_what_is_kept_on_the_way_holds_all_that_is_shown(tmp_path, monkeypatch):
    """However the frames are shared between processes, and with few files on the disk."""
    monkeypatch.setattr(report_cases, "read_grey", lambda path: np.zeros((8, 8), np.float32))
    monkeypatch.setattr(report_cases, "write_png", lambda path, picture: path.touch())
    random = np.random.default_rng(4)
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        sequences = random.integers(1, 12)
        all_rows = rows(*[(f"s{random.integers(sequences)}", random.random() < 0.7) for _ in range(60)])
        all_rows = {item: row._replace(union=int(random.integers(4, 9))) for item, row in all_rows.items()}
        workers = [KeptFrames(folder), KeptFrames(folder)]
        for item, row in all_rows.items():
            workers[item % 7 > 3].offer(item, row, None, np.zeros((8, 8), np.float32), np.zeros((8, 8), bool))
        worst, best = choose_items(all_rows)
        files = set(folder.iterdir())
        assert {frame_picture(folder, item) for item in [*worst, *best]} <= files
        assert len(files) <= 2 * (WORST + BEST)
