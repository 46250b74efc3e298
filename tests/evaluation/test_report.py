"""The files that a person opens."""

import json
import os
import re
from contextlib import suppress
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import log_loss

from pipeline import files
from pipeline.errors import DataError
from pipeline.evaluation import flags
from pipeline.evaluation.image_files import find_images, read_image, write_predictions
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.report import comparison
from pipeline.evaluation.report.cases import choose_cases
from pipeline.evaluation.report.data_card import DataCard
from pipeline.evaluation.report.judgement import write_report
from pipeline.evaluation.report.page import write_files
from pipeline.evaluation.report.pictures import centre_square, image_quality, measure
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.ham10000.layouts.data_card import FIELDS, card_of
from pipeline.ham10000.taxonomy import HAM10000

MODEL = {
    **{"arch": "resnet18", "task": "dx", "dropout": 0.0, "image_size": 64, "epoch": 1, "step": 2},
    **{"seed": 0, "weights_sha256": "ab" * 32, "git_revision": "cd" * 20, "val_roc_auc": 0.9},
    **{"threshold": 0.4, "temperature": 2.0, "bias": -0.5, "target_sensitivity": None},
    "manifest_sha256": "ef" * 32,
    **{"classes": HAM10000.classes, "taxonomy": HAM10000.describe()},
}
MANIFEST = {
    "source": {"kind": "ham10000"},
    "split": {"by": "lesion", "val_fraction": 0.2, "test_fraction": 0.15, "seed": 0},
    "encode": {"image_size": 64},
    "labels": "dx",
    "counts": {"train": 10, "val": 5, "test": 400, "rejected": 3},
}


def written(out, frame, *, leak=0, threshold=None, shown=True, heat=True, manifest=MANIFEST):
    metrics = summarise(frame, threshold=0.4, temperature=2.0, resamples=20)
    chosen = choose_cases(frame, threshold=0.4, each=3, seed=0)
    rng = np.random.default_rng(0)
    pair = tuple(rng.integers(0, 255, (2, 144, 144, 3), dtype=np.uint8))
    pair = pair if heat else (pair[0], pair[0])
    rows = {int(row) for rows in chosen.values() for row in rows} if shown else set()
    card = DataCard(
        flags.JudgeFlags(
            data=flags.DataFlags(checkpoint=Path("runs/<b>best")),
            method=flags.MethodFlags(threshold=threshold),
        ),
        model=MODEL,
        manifest=manifest,
        data=card_of(manifest, frame["lesion_id"]),
        manifest_sha256="ef" * 32,
        leak={"images": leak, "lesions": leak, "groups of lesions": leak},
        edited=[],
        num_training=15,
        tta="none",
        backend="portable on cpu",
        command="python eval.py",
    )
    metrics["provenance"] = card.provenance()
    write_report(out, frame, metrics, card, dict.fromkeys(rows, pair), chosen)
    return (out / "report.html").read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory, unchanged):
    """A report's folder, and the moments of its writing (see pipeline.files). Read only."""
    out, moments = tmp_path_factory.mktemp("reports") / "out", []
    files.watchers.append(lambda moment, what: moments.append((moment, Path(what).name)))
    written(out, unchanged)
    files.watchers.clear()
    return out, moments


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]


def test_a_report_is_complete_and_opens_offline(report):
    out, _ = report
    names = {p.name for p in out.iterdir()}
    plots = ("roc", "precision_recall", "confusion_matrix", "calibration", "subgroups")
    sheets = ("sample_predictions", "misclassified")
    assert names >= {f"{name}.png" for name in (*plots, *sheets)}
    assert names >= {"metrics.json", "predictions.csv", "report.html"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    text = (out / "report.html").read_text()
    page = Page(text)
    sources = [a[k] for _, a in page.tags for k in ("src", "href") if k in a]
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert {s[1:] for s in sources if s.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) > 20
    assert all(a.get("alt") for a in images)
    assert "<b>best" not in text  # names that users chose are escaped
    assert "runs/&lt;b&gt;best" in text
    assert len(text) < 3_000_000


def test_the_first_screen_holds_headlines_baselines_and_warnings(tmp_path, report, predictions):
    text = (report[0] / "report.html").read_text()
    first = text[: text.index('id="curves"')]
    assert "Not a medical device" in first
    assert re.search(r"ROC-AUC</span><span class=\"value\">0\.\d{3}", first)
    assert "always “benign”" in first
    assert "Leak" not in first
    assert "given by hand" not in first
    text = written(tmp_path / "b", predictions, leak=4, threshold=0.4)
    assert re.search(r'class="alarm" role="alert">Leak: .*4 images, 4 lesions', text)
    assert "was given by hand (--threshold)" in text


def test_what_crosses_the_splits_and_the_official_test_set_are_said(tmp_path, predictions):
    crossing = {"groups": ["L1", "L2"], "lesions": ["L1"], "patients": [], "pairs": [["a", "b"]]}
    test = {"images": 1511, "groups": 1264, "left_out": 15}
    manifest = MANIFEST | {
        "split": MANIFEST["split"] | {"by": "table", "crossing": crossing},
        "source": {"kind": "ham10000", "official_test": test},
    }
    text = written(tmp_path / "out", predictions, manifest=manifest)
    assert re.search(r'class="alarm" role="alert">Leak: .* share 1 lesions, 1 pairs', text)
    assert "1,511 images in 1,264 groups of one lesion; 15 training images" in text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["provenance"]["crossing"] == {"lesions": 1, "pairs": 1}


def test_the_card_says_what_was_judged_on_what_and_how(report):
    text = (report[0] / "report.html").read_text()
    card = re.sub(r"<[^>]+>", " ", text[text.index('id="card"') : text.index("<footer>")])
    for fact in (
        *("resnet18 (torchvision)", "ab" * 32, "the best Youden index", "bias -0.5000", "portable"),
        *("ham10000, 415 images", "400 images of", "by group of lesions", "shorter side 64"),
        *("none of the 15 images", "20 resamples", "No diagnosis, triage or treatment"),
        *("Skin tones", "Reference standard", "CC BY-NC 4.0", "python eval.py"),
    ):
        assert fact in card, fact


def test_nothing_is_claimed_of_data_that_nobody_described(tmp_path, predictions):
    own = MANIFEST | {"source": {"kind": "images"}, "labels": "binary"}
    text = written(tmp_path / "own", predictions, manifest=own)
    for claim in (
        "HAM10000",
        "Vienna",
        "CC BY",
        "light skin",
        "Recall of melanoma",
        "(nv)",
        "(mel)",
    ):
        assert claim not in text, claim
    assert re.search(r'class="note">Not stated of this data: .*licence.*skin tones', text)
    assert text.count("<dd>not stated</dd>") == len(FIELDS)
    stated = own | {"data_card": {"name": "Clinic <1>", "skin_tones": "Fitzpatrick V and VI"}}
    text = written(tmp_path / "stated", predictions, manifest=stated)
    assert "<dt>Skin tones</dt><dd>Fitzpatrick V and VI</dd>" in text
    assert "Data: Clinic &lt;1&gt;; licence: not stated" in text


def test_made_up_data_is_announced_in_red(tmp_path, report, predictions):
    alarm = 'class="alarm" role="alert">Made-up data'
    assert alarm not in (report[0] / "report.html").read_text()
    drawn = MANIFEST | {"data_card": {"synthetic": True}}
    assert alarm in written(tmp_path / "out", predictions, manifest=drawn)


def test_each_figure_says_how_many_images_it_is_a_share_of(report, unchanged):
    text = (report[0] / "report.html").read_text()
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th><td>([\d,]+)</td>', text))
    label, predicted = unchanged["label"], unchanged["predicted"]
    assert int(rows["Sensitivity"]) == label.sum()
    assert int(rows["Specificity"]) == (label == 0).sum()
    assert int(rows["Precision, malignant"]) == predicted.sum()
    assert int(rows["Accuracy"]) == int(rows["ROC-AUC"]) == len(unchanged)


def test_a_picture_without_heat_is_explained(tmp_path, predictions):
    assert "no region speaks for this decision" in written(tmp_path / "a", predictions, heat=False)
    assert "no region speaks for this" not in written(tmp_path / "b", predictions)


def test_what_calibration_made_worse_is_said(tmp_path, predictions):
    label, prob = predictions["label"], predictions["prob_malignant"].clip(0.01, 0.99)
    away = np.where(label == 1, 0.1, 0.9)
    better = predictions.assign(prob_uncalibrated=0.5 * (prob + away))
    worse = predictions.assign(prob_uncalibrated=0.5 * (prob + 1 - away))
    assert "calibration made worse" not in written(tmp_path / "a", better)
    found = re.search(
        r"worse: the negative log-likelihood \(([\d.]+) to", written(tmp_path / "b", worse)
    )
    assert float(found[1]) == pytest.approx(log_loss(label, worse["prob_uncalibrated"]), abs=1e-4)


def test_a_binary_report_without_mistakes_or_quality_is_written_too(tmp_path, predictions):
    binary = predictions.loc[:, :"dx_type"].assign(predicted=predictions["label"])
    binary["prob_malignant"] = binary["prob_uncalibrated"] = 0.1 + 0.8 * binary["label"]
    text = written(tmp_path / "out", binary)
    assert 'id="classes"' not in text
    assert text.count("<p>None.</p>") == 2


SIZES = """Array.from(document.images, i => {
    const r = i.getBoundingClientRect();
    return [i.alt, i.naturalWidth / i.naturalHeight, r.width / r.height, r.right];
})"""
CUT = """Array.from(document.querySelectorAll('h1, h2, h3, p, li, dd, figcaption, .text'))
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "kind"), [(1280, ""), (500, ""), (390, ""), (700, "print")])
def test_images_keep_their_shape_and_nothing_is_cut(browser, tmp_path, predictions, width, kind):
    predictions["image_id"] = "a_name_that_somebody_gave_to_a_photograph_" + predictions["image_id"]
    written(tmp_path / "out", predictions, leak=4, threshold=0.3)
    browser.open(tmp_path / "out" / "report.html", width=width, kind=kind)
    for name, natural, drawn, right in browser.ask(SIZES):
        assert drawn == pytest.approx(natural, rel=0.02), name
        assert right <= width, name
    assert browser.ask("document.documentElement.scrollWidth") == width
    assert browser.ask(CUT) == []


@pytest.mark.slow
def test_collapsed_tables_are_printed(browser, report):
    browser.open(report[0] / "report.html", width=1280)
    closed = "document.querySelectorAll('details:not([open])').length"
    assert browser.ask(closed) > 0
    assert browser.pdf().startswith(b"%PDF")
    assert browser.ask(closed) == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_barrier(browser, report, scheme, width):
    """AXE names an axe.min.js (npm pack axe-core)."""
    if "AXE" not in os.environ:
        pytest.skip("AXE is not set to the path of an axe.min.js")
    media = {"prefers-color-scheme": scheme}
    browser.open(report[0] / "report.html", width=width, media=media)
    browser.ask(Path(os.environ["AXE"]).read_text() + ";0")
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask("axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))") == []


OLD = {"report.html": "old page", "confusion_matrix_dx.png": "old", "metrics.json": "old metrics"}
NEW = {"roc.png": "new", "report.html": "new page", "metrics.json": "new metrics"}


@pytest.mark.parametrize("kept", [{}, {"notes.txt": "mine"}], ids=str)
@pytest.mark.parametrize("number", range(13))
def test_a_report_is_replaced_as_a_whole_or_not_at_all(tmp_path, kept, number):
    out, moments = tmp_path / "out", []
    write_files(out, OLD)
    for name, content in kept.items():
        (out / name).write_text(content)

    def fail(moment: str, what: str) -> None:
        found = {p.name: p.read_text() for p in out.iterdir()}
        moments.append(found)
        if len(moments) == number:
            raise KeyboardInterrupt

    files.watchers.append(fail)
    with suppress(KeyboardInterrupt):
        write_files(out, NEW)
    files.watchers.remove(fail)
    assert all(found == OLD | kept for found in moments)
    found = {p.name: p.read_text() for p in out.iterdir()}
    assert found == ((OLD if len(moments) == number else NEW) | kept)


@pytest.mark.parametrize("present", [True, False])
def test_a_folder_that_cannot_be_replaced_has_no_old_metrics_beside_new_files(
    tmp_path, monkeypatch, present
):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path if present else tmp_path.parent)
    write_files(tmp_path, OLD)
    seen = []

    def look(moment: str, what: str) -> None:
        seen.append((tmp_path / "metrics.json").exists())

    files.watchers.append(look)
    write_files(Path() if present else tmp_path, NEW)
    files.watchers.remove(look)
    assert seen and not any(seen)
    names = {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()}
    assert names == NEW and (tmp_path / "sub").is_dir()


def test_a_report_that_cannot_be_drawn_leaves_the_old_one(tmp_path, predictions):
    out = tmp_path / "out"
    write_files(out, {"report.html": "old page", "metrics.json": "old metrics"})
    with pytest.raises(KeyError):
        written(out, predictions, shown=False)
    assert {p.name: p.read_text() for p in out.iterdir()} == {
        "report.html": "old page",
        "metrics.json": "old metrics",
    }


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file.out"):
        write_files(tmp_path / "file" / "out", {"metrics.json": "{}"})


def test_reports_side_by_side(tmp_path, report, predictions):
    worse = predictions.assign(prob_malignant=predictions["prob_malignant"].to_numpy()[::-1])
    worse["predicted"] = (worse["prob_malignant"] >= 0.4).astype(int)
    written(tmp_path / "b", worse)
    first, second = report[0], tmp_path / "b"
    comparison.run(flags.CompareFlags((first, second, first), tmp_path / "ab", resamples=50))
    found = json.loads((tmp_path / "ab" / "comparison.json").read_text())
    differing, same = found["comparisons"]
    assert differing["metrics"]["roc_auc"]["difference"] < -0.2
    assert differing["delong"]["p"] < 1e-6
    assert same["metrics"]["roc_auc"]["difference"] == 0
    text = (tmp_path / "ab" / "report.html").read_text()
    assert "McNemar" in text
    names = {p.name for p in (tmp_path / "ab").iterdir()}
    assert names == {"comparison.json", "report.html", "roc.png"}
    with pytest.raises(DataError, match="not found"):
        comparison.run(flags.CompareFlags((first, tmp_path / "none"), tmp_path / "x"))


def jpeg(array):
    out = BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_blurred_image_is_less_sharp_and_a_darker_one_less_bright():
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    sharp = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    blurred = np.asarray(Image.fromarray(noise[:15, :20]).resize((320, 240)))
    assert measure(jpeg(sharp))[0] > 5 * measure(jpeg(blurred))[0]
    assert measure(jpeg(sharp // 2))[1] == pytest.approx(measure(jpeg(sharp))[1] / 2, rel=0.05)
    assert image_quality(lambda _: jpeg(sharp), 3, workers=2).shape == (3, 2)


def test_the_centre_square_is_what_the_model_sees():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 200  # the centre square of 60 pixels
    assert (centre_square(image, 30) == 200).all()
    assert centre_square(image, 30).shape == (30, 30, 3)


def test_image_files_are_found_read_and_their_predictions_written(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "b.png")
    Image.fromarray(picture).convert("CMYK").save(folder / "a.jpg")
    (folder / "notes.txt").write_text("no image")
    paths, _ = find_images([tmp_path / "in", folder / "b.png"])
    assert [p.name for p in paths] == ["a.jpg", "b.png"]
    np.testing.assert_array_equal(read_image(paths[1]), picture)
    assert read_image(paths[0]).shape == (30, 40, 3)

    def write(name, *probabilities):
        prob = np.array(probabilities)
        table = pd.DataFrame({"prob_malignant": prob, "predicted": (prob >= 0.5).astype(int)})
        write_predictions(tmp_path / name, paths, table, {}, threshold=0.5, most=1)

    write("out", 0.2, 0.7)
    again = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(again["predicted"]) == [0, 1]
    assert list(again["image"]) == [str(path) for path in paths]
    assert Image.open(tmp_path / "out" / "predictions.png").width > 0
    with pytest.raises(DataError, match=r"first: .*b\.png, nan.*diverged"):
        write("nan", 0.2, np.nan)
    (folder / "c.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(BadImageError, match="damaged JPEG"):
        read_image(folder / "c.jpg")
    with pytest.raises(DataError, match="no such image"):
        find_images([tmp_path / "nothing"])
