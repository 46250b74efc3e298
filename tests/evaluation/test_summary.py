"""metrics.json against predictions.csv, computed again with other libraries."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from pipeline.evaluation.metrics.bootstrap import group_weights
from pipeline.evaluation.metrics.subgroups import banded, by_factor, quartile_band
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.predictions import as_csv
from pipeline.evaluation.report.cases import choose_cases
from pipeline.evaluation.report.page import as_json, write_files
from pipeline.figures import confidence


@pytest.fixture
def kept(tmp_path, predictions):
    """The metrics as metrics.json holds them, and predictions.csv read by pandas."""
    metrics = summarise(predictions, threshold=0.4, temperature=2.0, resamples=100)
    files = {"metrics.json": as_json(metrics), "predictions.csv": as_csv(predictions)}
    write_files(tmp_path, files)
    table = pd.read_csv(tmp_path / "predictions.csv")
    return json.loads((tmp_path / "metrics.json").read_text()), table


def headlines(y, p, d):
    tn, fp, fn, tp = sk.confusion_matrix(y, d).ravel()
    return {
        "n": len(y),
        "roc_auc": sk.roc_auc_score(y, p),
        "pr_auc": sk.average_precision_score(y, p),
        "accuracy": sk.accuracy_score(y, d),
        "majority_accuracy": max(np.mean(y), 1 - np.mean(y)),
        "balanced_accuracy": sk.balanced_accuracy_score(y, d),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": sk.precision_score(y, d),
        "f1": sk.f1_score(y, d),
        "mcc": sk.matthews_corrcoef(y, d),
        "brier": sk.brier_score_loss(y, p),
        "nll": sk.log_loss(y, p),
        "ece": sum(
            abs((p - y)[np.minimum((p * 15 + 1e-12).astype(int), 14) == k].sum()) for k in range(15)
        )
        / len(y),
        "confusion_matrix": [[tn, fp], [fn, tp]],
    }


def test_every_figure_can_be_computed_again_from_predictions_csv(kept):
    metrics, t = kept
    y, p, d = (t[c].to_numpy() for c in ("label", "prob_malignant", "predicted"))
    for name, value in headlines(y, p, d).items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-9, err_msg=name)
    for dx in ("mel", "bcc", "akiec"):
        assert metrics[f"recall_{dx}"] == pytest.approx(d[t["dx"] == dx].mean(), abs=1e-9)
    report = sk.classification_report(y, d, target_names=["benign", "malignant"], output_dict=True)
    for name, entry in metrics["per_class"].items():
        assert entry["f1"] == pytest.approx(report[name]["f1-score"], abs=1e-9)
        assert entry["precision"] == pytest.approx(report[name]["precision"], abs=1e-9)
    assert metrics["balanced_accuracy_dx"] == pytest.approx(
        sk.balanced_accuracy_score(t["dx"], t["predicted_dx"]), abs=1e-9
    )
    before = sk.brier_score_loss(y, t["prob_uncalibrated"])
    assert metrics["calibration"]["before"]["brier"] == pytest.approx(before, abs=1e-9)
    assert metrics["calibration"]["after"]["brier"] == metrics["brier"]


def test_a_lesion_counts_once_with_the_mean_of_its_images(kept):
    metrics, t = kept
    lesions = t.groupby("lesion_id").agg(p=("prob_malignant", "mean"), y=("label", "first"))
    found, decided = metrics["per_lesion"], (lesions["p"] >= 0.4).astype(int)
    for name, value in headlines(
        lesions["y"].to_numpy(), lesions["p"].to_numpy(), decided.to_numpy()
    ).items():
        if name != "ece":  # means of decimals lie on the edges of bins
            np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)


def test_intervals_are_those_of_resampled_tables(predictions):
    """Draw the same lesions, build each table, and compute with scikit-learn."""
    metrics = summarise(predictions, threshold=0.4, resamples=60, seed=3)
    weights = np.concatenate(
        list(group_weights(predictions["group"].to_numpy(), resamples=60, seed=3)), axis=1
    )
    y, p = (predictions[c].to_numpy() for c in ("label", "prob_malignant"))
    aucs, briers = [], []
    for column in weights.T.astype(int):
        rows = np.repeat(np.arange(len(y)), column)
        aucs.append(sk.roc_auc_score(y[rows], p[rows]))
        briers.append(sk.brier_score_loss(y[rows], p[rows]))
    for name, draws in (("roc_auc", aucs), ("brier", briers)):
        np.testing.assert_allclose(metrics["ci95"][name], np.percentile(draws, [2.5, 97.5]))


def test_subgroups_have_counts_intervals_and_a_note_where_small(predictions):
    metrics = summarise(predictions, threshold=0.4, resamples=100)
    for level, rows in predictions.groupby("localization"):
        entry = metrics["subgroups"]["localization"][level]
        assert entry["n"] == len(rows)
        if len(rows) < 20:
            assert entry["note"] == "fewer than 20 images"
            assert "roc_auc" not in entry
        else:
            auc = sk.roc_auc_score(rows["label"], rows["prob_malignant"])
            assert entry["roc_auc"] == pytest.approx(auc, abs=1e-12)
            low, high = entry["ci95"]["roc_auc"]
            assert low < auc < high
    small = metrics["subgroups"]["sex"]["unknown"]
    assert small["n"] < 20
    assert "note" in small
    assert set(metrics["errors"]) >= {"dx", "age_band", "sharpness_band", "brightness_band"}
    nevi = metrics["errors"]["dx"]["nv"]  # one class only: no AUC, no sensitivity
    assert nevi["roc_auc"] is nevi["sensitivity"] is None
    assert nevi["error_rate"] == pytest.approx(1 - nevi["specificity"])


def test_quality_is_banded_in_quarters_of_the_table():
    assert list(quartile_band(np.arange(8.0)))[::2] == ["1 lowest", "2", "3", "4 highest"]


def test_a_factor_that_the_table_lacks_is_left_out(predictions):
    bare = banded(predictions.drop(columns=["sharpness", "brightness"]))
    assert set(by_factor(bare, ["sex", "sharpness_band"], resamples=10, seed=0)) == {"sex"}


def test_galleries_show_the_surest_mistakes_first(predictions):
    chosen = choose_cases(predictions, threshold=0.4, each=5, seed=0)
    misses = predictions[(predictions["label"] == 1) & (predictions["predicted"] == 0)]
    rows = chosen["false negatives"]
    assert list(predictions["prob_malignant"].iloc[rows]) == sorted(misses["prob_malignant"])[:5]
    sure = confidence(predictions["prob_malignant"].to_numpy(), 0.4)
    wrong = np.flatnonzero(predictions["label"] != predictions["predicted"])
    assert set(chosen["mistakes"]) <= set(wrong)
    assert sorted(sure[chosen["mistakes"]]) == sorted(sure[wrong])[-len(chosen["mistakes"]) :]
    right = predictions.iloc[chosen["true negatives"]]
    assert ((right["label"] == 0) & (right["predicted"] == 0)).all()
