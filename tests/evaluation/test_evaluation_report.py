"""The files that a person opens."""

import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.evaluation import image_files as loose
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.report.comparison import write_comparison
from pipeline.evaluation.report.data_card import Subject
from pipeline.evaluation.report.judgement import Shown, rows_to_show, staged, write_report
from pipeline.evaluation.report.pictures import image_quality, measure, square

CARD = {
    "arch": "resnet18", "task": "dx", "dropout": 0.0, "image_size": 64, "epoch": 1, "step": 2,
    "seed": 0, "weights_sha256": "ab" * 32, "git_revision": "cd" * 20, "val_roc_auc": 0.9,
    "threshold": 0.4, "temperature": 2.0, "bias": -0.5, "target_sensitivity": None,
    "manifest_sha256": "ef" * 32,
}  # fmt: skip
MANIFEST = {
    "source": {"kind": "ham10000"}, "split": {"by": "lesion", "val_fraction": 0.2,
    "test_fraction": 0.15, "seed": 0}, "encode": {"image_size": 64}, "labels": "dx",
    "counts": {"train": 10, "val": 5, "test": 400},
}  # fmt: skip


def about(**changes):
    values = {
        "checkpoint": "runs/<b>best", "card": CARD, "shards": "shards/x", "split": "test",
        "manifest": MANIFEST, "manifest_sha256": "ef" * 32, "seen": 15, "threshold_given": False,
        "leak": {"images": 0, "lesions": 0, "groups of lesions": 0}, "tta": "none",
        "precision": "float32", "backend": "portable on cpu", "command": "python eval.py",
        "revision": "12" * 20, "versions": {"torch": "2"},
    }  # fmt: skip
    return Subject(**(values | changes))


def written(out, frame, **changes):
    metrics = summarise(frame, threshold=0.4, temperature=2.0, resamples=20)
    chosen = rows_to_show(frame, threshold=0.4, each=3, seed=0)
    rng = np.random.default_rng(0)
    picture = Shown(*rng.integers(0, 255, (2, 144, 144, 3), dtype=np.uint8))
    rows = {int(r) for rows in chosen.values() for r in rows}
    subject = about(**changes)
    metrics["provenance"] = subject.provenance()
    write_report(out, frame, metrics, subject, dict.fromkeys(rows, picture), chosen)
    return (out / "report.html").read_text()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_data(self, data):
        self.text.append(data)


def test_a_report_is_whole_and_needs_nothing_from_outside(tmp_path, predictions):
    text = written(tmp_path / "out", predictions)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"metrics.json", "predictions.csv", "report.html", "roc.png",
                     "precision_recall.png", "confusion_matrix.png", "sample_predictions.png",
                     "misclassified.png", "calibration.png", "subgroups.png"}  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    page = Page(text)
    sources = [a[k] for _, a in page.tags for k in ("src", "href") if k in a]
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert {s[1:] for s in sources if s.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) > 20
    assert all(a.get("alt") for a in images)
    assert "<b>best" not in text  # what users name is escaped
    assert "runs/&lt;b&gt;best" in text
    assert len(text) < 3_000_000


def test_the_report_says_what_must_be_known_first(tmp_path, predictions):
    text = written(tmp_path / "a", predictions)
    first = text[: text.index('id="curves"')]
    assert "Not a medical device" in first
    assert re.search(r"ROC-AUC</span><span class=\"value\">0\.\d{3}", first)
    assert "always “benign”" in first
    assert "Leak" not in first
    assert "given by hand" not in first
    leak = {"images": 4, "lesions": 3, "groups of lesions": 3}
    text = written(tmp_path / "b", predictions, leak=leak, threshold_given=True)
    assert re.search(r'class="alarm" role="alert">Leak: .*4 images, 3 lesions', text)
    assert "was given by hand (--threshold)" in text


def test_a_binary_report_without_mistakes_or_quality_is_written_too(tmp_path, predictions):
    frame = predictions.drop(columns=[c for c in predictions if c.startswith("prob_") and c not in
                                      ("prob_malignant", "prob_uncalibrated")])  # fmt: skip
    frame = frame.drop(columns=["predicted_dx", "sharpness", "brightness"])
    frame["prob_malignant"] = frame["prob_uncalibrated"] = 0.1 + 0.8 * frame["label"]
    text = written(tmp_path / "out", frame.assign(predicted=frame["label"]))
    assert "Seven classes" not in text
    assert text.count("<p>None.</p>") == 2


def test_a_failed_report_leaves_the_old_one_and_no_trace(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("old")
    with pytest.raises(RuntimeError), staged(tmp_path / "out") as folder:
        (folder / "metrics.json").write_text("new")
        raise RuntimeError
    assert (tmp_path / "out" / "metrics.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_reports_side_by_side(tmp_path, predictions):
    worse = predictions.assign(prob_malignant=predictions["prob_malignant"].to_numpy()[::-1])
    worse["predicted"] = (worse["prob_malignant"] >= 0.4).astype(int)
    written(tmp_path / "a", predictions)
    written(tmp_path / "b", worse)
    found = write_comparison(
        tmp_path / "ab", [tmp_path / "a", tmp_path / "b", tmp_path / "a"], resamples=50
    )
    first, second = found["comparisons"]
    assert first["metrics"]["roc_auc"]["difference"] < -0.2
    assert first["delong"]["p"] < 1e-6
    assert second["metrics"]["roc_auc"]["difference"] == 0
    text = (tmp_path / "ab" / "report.html").read_text()
    assert "McNemar" in text
    assert {p.name for p in (tmp_path / "ab").iterdir()} == {
        "comparison.json", "report.html", "roc.png"}  # fmt: skip
    with pytest.raises(DataError, match="does not exist"):
        write_comparison(tmp_path / "x", [tmp_path / "a", tmp_path / "none"])


def jpeg(array):
    out = BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_blurred_image_is_less_sharp_and_a_darker_one_less_bright():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    rough = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    small = np.asarray(Image.fromarray(noise[:15, :20]).resize((320, 240)))
    assert measure(jpeg(rough))[0] > 5 * measure(jpeg(small))[0]
    assert measure(jpeg(rough // 2))[1] == pytest.approx(measure(jpeg(rough))[1] / 2, rel=0.05)
    assert image_quality(lambda _: jpeg(rough), range(3), workers=2).shape == (3, 2)
    assert square(jpeg(rough), 50).shape == (50, 50, 3)


def test_loose_images_are_found_read_and_told(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "b.png")
    Image.fromarray(picture).convert("CMYK").save(folder / "a.jpg")
    (folder / "notes.txt").write_text("no image")
    paths = loose.find_images([tmp_path / "in", folder / "b.png"])
    assert [p.name for p in paths] == ["a.jpg", "b.png"]
    np.testing.assert_array_equal(loose.read_image(paths[1]), picture)
    assert loose.read_image(paths[0]).shape == (30, 40, 3)
    frame = loose.table(paths, 0.5, np.array([0.2, 0.7]), np.array([0.1, 0.9]))
    loose.write_loose(tmp_path / "out", frame, [picture, picture], 0.5, most=1)
    again = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(again["predicted"]) == [0, 1]
    assert Image.open(tmp_path / "out" / "predictions.png").width > 0
    (folder / "c.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(DataError, match=r"c\.jpg: cannot be read"):
        loose.read_image(folder / "c.jpg")
    with pytest.raises(DataError, match="no such image"):
        loose.find_images([tmp_path / "nothing"])
    with pytest.raises(DataError, match="diverged"):
        loose.table(paths, 0.5, np.array([0.2, np.nan]), np.zeros(2))
