import html
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from eke.errors import DataError
from eke.metrics.classification import (
    accuracy_parts,
    calibration_interval,
    calibration_parts,
    confusion_matrix,
    macro_f1_parts,
    reliability,
)
from eke.metrics.statistics import Interval, Paired, bootstrap, compare_images, wilson
from eke.report.charts import Curve
from eke.report.compare import compare_page
from eke.report.content import (
    Budget,
    ClassExamples,
    CompareReport,
    Comparison,
    CurveChart,
    Differences,
    EmbeddingMap,
    Figures,
    LayerReport,
    LayerRow,
    Mistake,
    PoolPredictions,
    Problem,
    PseudoLabelReport,
    RunReport,
    ViewRow,
)
from eke.report.page import Page, Section, Table, Text, render, write_page
from eke.report.pictures import data_uri
from eke.report.projection import Projection
from eke.report.run import run_page
from eke.report.words import difference_cell, p_value, points

NASTY = "<script>alert('x')</script> & 黑猫 \"quoted\""


NAMES = ("accuracy", "macro_f1", "calibration_error")


def predictions(k, n, sharpness, seed):
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(0, k, n)
    probs = np.exp(generator.normal(size=(n, k)) + sharpness * np.eye(k)[labels])
    return probs / probs.sum(1, keepdims=True), labels


def figures(name, probs, truth, **more):
    hits = int((probs.argmax(1) == truth).sum())
    values = {
        "accuracy": wilson(hits, len(truth)),
        "macro_f1": bootstrap(macro_f1_parts(probs, truth), n_resamples=100),
        "calibration_error": calibration_interval(probs, truth, n_resamples=100),
    }
    return Figures(name, values, **more)


def full_report(k=10, n=400, **changes):
    ours, labels = predictions(k, n, 4.0, 1)
    base, _ = predictions(k, n, 2.0, 2)
    classes = [NASTY, *(f"class {i}" for i in range(1, k))]
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (8, 8), dtype=np.uint8)
    photo = np.tile(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8), (10, 10, 1))
    pairs = [
        compare_images(parts(ours, labels), parts(base, labels), n_resamples=100)
        for parts in (accuracy_parts, macro_f1_parts, calibration_parts)
    ]
    values = {
        "title": f"run of {NASTY}",
        "command": f"eke fit digits --set a={NASTY}",
        "method": "fixmatch",
        "model": "lenet",
        "classes": classes,
        "budget": Budget(32, 8),
        "split": "test",
        "n_images": n,
        "run": figures("FixMatch", ours, labels, labels=40, images=38_400),
        "baselines": [figures("Supervised", base, labels, labels=40, note="same labels")],
        "differences": [Differences("supervised", dict(zip(NAMES, pairs, strict=True)))],
        "curves": [CurveChart("Accuracy", [Curve("FixMatch", [0, 100], [0.1, 0.9])], True)],
        "confusion": confusion_matrix(ours.argmax(1), labels, k),
        "reliability": reliability(ours, labels),
        "pseudo_labels": PseudoLabelReport([0, 100], [0.0, 0.8], [math.nan, 0.9]),
        "pool": PoolPredictions(generator.poisson(25, k), np.full(k, 4)),
        "under_examples": [ClassExamples("class 1", [Mistake(image, "class 1", NASTY, 0.9, NASTY)])],
        "over_examples": [ClassExamples(NASTY, [Mistake(photo, "class 1", NASTY, 0.9, NASTY)])],
        "embeddings": EmbeddingMap(
            Projection(generator.normal(size=(n, 2)), "PCA", (0.5, 0.25)), labels, ours.argmax(1)
        ),
        "layers": LayerReport(
            photo, NASTY, "class 1", NASTY, [LayerRow(NASTY, (8, 8), 16, [3, 5], np.zeros((2, 8, 8), np.float32))]
        ),
        "view_names": ["weak", "strong"],
        "views": [ViewRow(NASTY, [image, photo])],
        "mistakes": [Mistake(image, NASTY, "class 1", 0.98, f"some folder/{NASTY}.png")],
        "environment": {"Hardware": "2 cores", "Commit": "abc"},
        "problems": [Problem(f"{NASTY}.jpg", "truncated", "Copy it again.")],
    }
    return RunReport(**(values | changes))


class Outline(HTMLParser):
    """Collects what a test wants to know about a page, and whether its elements close in order."""

    VOID = ("meta", "img", "br", "hr", "link", "input", "line", "rect", "use", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page():
    return render(run_page(full_report()))


def test_the_page_is_whole_escaped_and_alone(page):
    outline = Outline(page)
    assert outline.open == []
    assert "script" not in outline.tags
    assert html.escape("<script>alert('x')</script>").replace("&#x27;", "&#39;") in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page), "the page must open offline"
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.lstrip().startswith("<!doctype html>")
    assert len(page) < 400_000


def test_every_picture_has_a_text_and_every_table_headers(page):
    outline = Outline(page)
    assert len(outline.images) == 3 + 3
    assert all(image["alt"] for image in outline.images)
    assert all(image["src"].startswith(("data:image/png", "data:image/jpeg")) for image in outline.images)
    assert page.count("<table") == page.count('<table aria-label="')
    assert all('scope="row"' in table for table in re.findall(r"<table.*?</table>", page, re.DOTALL))
    assert page.count("<svg viewBox") == page.count('role="img" aria-label=') + page.count("<li><svg")


def test_what_the_report_says(page):
    words = Outline(page).words()
    for sentence in (
        "40 labels = 32 train + 8 validation",
        "of 400 test images right (95 % interval",
        "Against supervised: +",
        "better",
        "eke fit digits",
        "Images through the network",
        "38,400",
        "1 item set aside",
        "98.0 % sure",
        "Measured on 400 test images",
    ):
        assert sentence in words
    assert "No test set was named" not in words


def test_without_a_test_set_the_page_says_so():
    words = Outline(render(run_page(full_report(split="validation")))).words()
    assert "No test set was named, so test figures are left out" in words
    assert "test images" not in words


def test_a_difference_that_contains_zero_cannot_be_told():
    unsure = Paired(Interval(0.01, -0.01, 0.03), 0.3)
    words = Outline(
        render(run_page(full_report(differences=[Differences("supervised", {"accuracy": unsure})])))
    ).words()
    assert "Cannot tell whether it is better than supervised" in words
    assert "+1.0 · cannot tell" in words


def test_what_is_missing_is_left_out():
    report = RunReport(
        title="bare",
        command="",
        method="supervised",
        model="lenet",
        classes=["a", "b"],
        budget=Budget(1, 0),
        split="test",
        n_images=0,
        run=Figures("Supervised"),
    )
    page = render(run_page(report))
    assert "<section" not in page
    assert "<nav" not in page
    assert "1 label = 1 train + 0 validation" in page
    partial = full_report(
        confusion=None,
        reliability=None,
        views=(),
        mistakes=(),
        pseudo_labels=PseudoLabelReport([1], [0.5]),
        pool=None,
        layers=None,
        curves=[CurveChart("empty", [Curve("none", [], [])])],
    )
    titles = [section.title for section in run_page(partial).sections if section.blocks]
    assert titles == ["Figures", "Pseudo-labels", "Set aside", "How to repeat this"]


def test_two_classes_and_no_mistake():
    report = full_report(2, confusion=np.diag([20, 30]))
    assert "No image was taken for another class." in render(run_page(report))


def test_eight_hundred_classes_stay_readable_and_light():
    page = render(run_page(full_report(800, 3000)))
    assert len(page) < 1_000_000
    words = Outline(page).words()
    assert "Confusion matrix of 15 of 800 classes" in words
    assert "The other 775 rows" in words
    assert "the 15 of 800 classes that differ most" in words
    assert "the other 795 classes" in words
    heatmap = re.search(r'class="heatmap.*?</table>', page, re.DOTALL).group()
    assert heatmap.count('scope="row"') == 15


def test_the_worst_come_first():
    confusion = np.array([[5, 0, 1], [9, 1, 0], [2, 0, 8]])
    sections = {s.title: s for s in run_page(full_report(3, classes=list("abc"), confusion=confusion)).sections}
    row, per_class = sections["Classes"].blocks
    pairs, matrix = row.blocks
    assert [cells[:3] for cells in pairs.rows] == [["b", "a", "9"], ["c", "a", "2"], ["a", "c", "1"]]
    assert pairs.rows[0][3] == "90.0 % of 10"
    assert [cells[0] for cells in per_class.rows] == ["b", "a", "c"]
    assert matrix.rows[1] == ("b", [(9, 0.9), (1, 0.1), (0, 0.0)])


def test_comparisons_are_corrected_for_being_several():
    sure, lucky = Paired(Interval(0.1, 0.05, 0.15), 0.001), Paired(Interval(0.04, 0.01, 0.07), 0.03)
    comparisons = [
        Comparison("a", "base", "accuracy", sure),
        Comparison("b", "base", "accuracy", lucky),
        Comparison("b", "base", "calibration_error", lucky),
    ]
    rows = [
        Figures(NASTY, {"accuracy": Interval(0.9, 0.8, 0.95)}, labels=40),
        Figures("b", {"accuracy": Interval(0.7, -math.inf, math.inf)}),
    ]
    curves = [CurveChart("Accuracy", [Curve("a", [0, 1], [0.1, 0.9]), Curve("b", [0, 1], [0.1, 0.7])], True)]
    report = CompareReport("three", "eke compare", "test", "100 test images", rows, comparisons, curves)
    page = compare_page(report)
    assert "1 difference of 3 can be told from chance, 2 cannot." in page.headline
    cells = [row[3] for row in page.sections[1].blocks[0].rows]
    assert [cell.tone for cell in cells] == ["better", "unsure", "unsure"]
    assert [cell.text.endswith(" *") for cell in cells] == [True, False, False]
    assert "p = 0.003" in cells[0].detail
    assert "p = 0.060" in cells[1].detail
    words = Outline(render(page)).words()
    assert "no interval from one run" in words
    assert "Highest accuracy" in words


def test_a_lower_error_is_better():
    fewer = Paired(Interval(-0.02, -0.03, -0.01), 0.0004)
    cell = difference_cell(fewer, higher_is_better=False)
    assert cell == ("−2.0 · better", "−3.0 to −1.0\np < 0.001", "better", None)
    assert difference_cell(fewer, higher_is_better=True).tone == "worse"
    assert difference_cell(None, higher_is_better=True).text == "–"


def test_each_figure_is_judged_by_its_own_direction():
    fewer = Paired(Interval(-0.02, -0.03, -0.01), 0.0004)
    report = full_report(differences=[Differences("supervised", dict.fromkeys(NAMES, fewer))])
    sections = {section.title: section for section in run_page(report).sections}
    cells = sections["Figures"].blocks[0].rows[-1]
    assert [cell.tone for cell in cells[1:4]] == ["worse", "worse", "better"]
    comparisons = [Comparison("a", "b", metric, fewer) for metric in ("accuracy", "calibration_error")]
    page = compare_page(CompareReport("c", "", "test", "100 test images", [Figures("a")], comparisons))
    assert [row[3].tone for row in page.sections[1].blocks[0].rows] == ["worse", "better"]


def test_words():
    assert [points(x) for x in (0.073, -0.00001, 0.0, -0.12)] == ["+7.3", "0.0", "0.0", "−12.0"]
    assert [p_value(p) for p in (0.0001, 0.032, 0.5, math.nan)] == ["p < 0.001", "p = 0.032", "p = 0.50", ""]


def test_a_table_must_be_rectangular():
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", ["a", "b"], [["1"]])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_a_picture_of_another_kind_is_refused(image):
    with pytest.raises(DataError, match="uint8"):
        data_uri(image)


def test_pictures_are_small():
    noise = np.random.default_rng(0).integers(0, 255, (1000, 800, 3), dtype=np.uint8)
    assert len(data_uri(noise)) < 60_000
    assert data_uri(noise[:, :, :1]).startswith("data:image/jpeg")
    assert data_uri(noise[:32, :32]).startswith("data:image/png")


def test_a_file_name_that_is_not_unicode_can_be_written(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, Page(os.fsdecode(b"bad \xff name"), ["one"], [], [Section("s", [Text("t")])]))
    assert b"bad \\udcff name" in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


# ---------------------------------------------------------------- in a browser

MEASURE = """
<script>
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  document.title = `${root.scrollWidth} ${root.clientWidth} ${page.querySelectorAll("svg text").length}`;
}
</script>
"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("k", [10, 800])
def test_in_a_browser_nothing_overflows_and_nothing_complains(tmp_path, width, k):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium was found (chromium, chromium-browser, google-chrome)")
    page = render(run_page(full_report(k)))
    # a frame, because a window cannot be made narrower than 500 pixels
    style = f"width:{width}px;height:900px;border:0"
    frame = f'<iframe srcdoc="{html.escape(page)}" onload="measure(this)" style="{style}">'
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8>{MEASURE}{frame}</iframe>", encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += ["--hide-scrollbars", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    run = subprocess.run(
        [chromium, *flags, profile, "--window-size=1400,1000", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    measured = re.search(r"<title>(\d+) (\d+) (\d+)", run.stdout)
    assert measured, run.stderr
    scroll, client, texts = map(int, measured.groups())
    assert client == width
    assert scroll <= width
    assert texts > 20
    assert [line for line in run.stderr.splitlines() if "CONSOLE" in line] == []
