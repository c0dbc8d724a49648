"""report.html: what it shows, that it needs no other file, and that Chromium runs it (where there is one)."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from test_script import inference
from test_script.report.report_cases import BEST, MOST_PER_SEQUENCE, WORST, choose_items, crop_window
from tests.reference.local_contrast import LocalContrast
from utils.metrics import build_metric


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


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on two sequences: "<easy>" with bright targets, "dim" where one of three is too weak to be found."""
    root = tmp_path_factory.mktemp("data") / "TINY"
    for sequence, levels in (("a", [200]), ("<easy>", [200] * 3), ("dim", [200, 84, 200])):
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
        patch.setattr(inference, "load_model", lambda path: LocalContrast())
        patch.setattr(inference, "read_checkpoint", lambda path: SimpleNamespace(kind="published", settings={}))
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
    assert "83.33" in page.texts  # Pd: five of six
    cases = [part for part in page.texts if part in {f"{s}/{i}" for s in ("<easy>", "dim") for i in range(3)}]
    assert cases[0] == "dim/1" and len(cases) == len(set(cases)) == 6  # the missed target comes first
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3 + 4 * 6
    for picture in pictures:
        data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    surfaces = [attributes for tag, attributes in page.tags if attributes.get("class") == "surface"]
    assert len(surfaces) == 6
    for one in surfaces:
        scores = np.frombuffer(base64.b64decode(one["data-scores"]), np.uint8)
        assert scores.size == int(one["data-rows"]) * int(one["data-columns"]) == 48 * 48
    first, last = (np.frombuffer(base64.b64decode(surfaces[i]["data-scores"]), np.uint8) for i in (0, -1))
    assert first.max() < 128 < last.max()  # missed, found


def test_the_page_runs_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    probe = report.with_name("probe.html")  # the page, sorted by its second column twice (descending)
    click = "<script>for (let i = 0; i < 2; i++) document.querySelectorAll('.sortable th button')[1].click();</script>"
    probe.write_text(report.read_text(encoding="utf-8").replace("</body>", click + "</body>"), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += f"--disable-component-update --disable-sync --user-data-dir={tmp_path} --window-size=390,800 --dump-dom"
    shown = subprocess.run(
        [browser, *options.split(), probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    table = shown[shown.index('class="sortable"') :]
    assert table.index("&lt;easy&gt;") < table.index(">dim<")
    assert 'aria-sort="descending"' in table
    assert shown.count('class="surface"') == len(re.findall(r'<canvas[^>]* width="\d+"[^>]* height="\d+"', shown)) == 6


def rows(*values):
    """Counts of images: (sequence, hit) where a hit image has IoU 1, another one 0."""
    metric = build_metric("standard")
    target = np.zeros((8, 8))
    target[3:5, 3:5] = 1
    for number, (sequence, hit) in enumerate(values):
        metric.update(target * hit, target, sequence, str(number))
    return metric.rows


def test_worst_and_best_are_spread_over_the_sequences():
    many = rows(*([("a", 0)] * 20 + [("b", 0)] * 20 + [("c", 1)] * 40))
    worst, best = choose_items(many)
    assert len(worst) == WORST and len(best) == BEST and not set(worst) & set(best)
    several = rows(*[(f"s{number % 10}", number % 2) for number in range(100)])
    worst, _ = choose_items(several)
    names = [several[item].sequence for item in worst]
    assert max(names.count(name) for name in names) == MOST_PER_SEQUENCE
    assert choose_items(rows(("a", 0))) == ([0], [])
    images = rows(*[(None, number % 2) for number in range(60)])
    assert choose_items(images)[0] == list(range(0, 16, 2))


def test_the_window_lies_around_the_target_that_was_seen_worst():
    truth, score = np.zeros((100, 200), bool), np.zeros((100, 200), np.float32)
    truth[50:53, 60:63] = truth[10:12, 190:193] = True
    score[51, 61] = 0.9
    rows_, columns = crop_window(truth, score > 0.5, score)
    assert (rows_.start, rows_.stop, columns.start, columns.stop) == (0, 48, 152, 200)
    rows_, columns = crop_window(np.zeros_like(truth), score > 0.5, score)  # no target: the false alarm
    assert rows_.start <= 51 - 20 and columns.start <= 61 - 20 and rows_.stop - rows_.start == 48
    rows_, columns = crop_window(np.zeros((20, 30), bool), np.zeros((20, 30), bool), np.zeros((20, 30)))
    assert (rows_, columns) == (slice(0, 20), slice(0, 30))
