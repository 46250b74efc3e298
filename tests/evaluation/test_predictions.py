"""The predictions table: joined, checked, kept; and leaks from training."""

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.leak import overlap, refuse
from pipeline.evaluation.predictions import CORE, as_csv, assemble, check, read


def scored(prob_malignant, prob_uncalibrated):
    prob = {"prob_malignant": prob_malignant, "prob_uncalibrated": prob_uncalibrated}
    return pd.DataFrame({**prob, "predicted": (prob_malignant >= 0.4).astype(int)})


def test_predictions_read_back_bit_for_bit(tmp_path, predictions):
    predictions["prob_malignant"] = np.random.default_rng(0).random(len(predictions))
    predictions["shard"] = "test/x-test-000000.tar"  # another column of samples.csv
    (tmp_path / "predictions.csv").write_text(as_csv(predictions))
    again = read(tmp_path / "predictions.csv")
    for column in ("prob_malignant", "prob_uncalibrated", "prob_mel", "sharpness", "age"):
        np.testing.assert_array_equal(again[column], predictions[column])
    assert set(again["shard"]) == {"test/x-test-000000.tar"}
    assert list(again["lesion_id"]) == list(predictions["lesion_id"])


def test_predictions_join_to_samples_in_the_order_of_the_samples(predictions):
    samples = predictions.drop(columns=["prob_malignant", "predicted", "prob_uncalibrated"])
    shuffled = predictions.sample(frac=1, random_state=0)
    probs = {k: shuffled[k].to_numpy() for k in ("prob_malignant", "prob_uncalibrated")}
    frame = assemble(samples, tuple(shuffled["image_id"]), scored(**probs))
    assert tuple(frame.columns[:6]) == CORE
    assert list(frame["image_id"]) == list(samples["image_id"])
    np.testing.assert_array_equal(frame["prob_malignant"], predictions["prob_malignant"])
    np.testing.assert_array_equal(frame["predicted"], predictions["predicted"])


@pytest.mark.parametrize("fault", ["missing", "twice", "foreign"])
def test_an_image_predicted_never_or_twice_or_from_elsewhere_is_refused(predictions, fault):
    ids = list(predictions["image_id"])
    prob = predictions["prob_malignant"].to_numpy()
    if fault == "missing":
        ids, prob = ids[1:], prob[1:]
    elif fault == "twice":
        ids, prob = [*ids, ids[0]], np.append(prob, prob[0])
    else:
        ids[0] = "ISIC_9999999"
    with pytest.raises(DataError, match="exactly once"):
        assemble(predictions, ids, scored(prob, prob))


def test_a_table_that_cannot_be_judged_is_refused_with_the_reason(predictions):
    nan = predictions["prob_malignant"].where(predictions.index != 3)
    cases = [
        (predictions.assign(prob_malignant=nan), "1 of 400 values of prob_malignant"),
        (predictions.assign(prob_mel=2.0), "400 of 400 values of prob_mel"),
        (predictions.iloc[:0], "no samples"),
        (predictions[predictions["label"] == 0], "all .* samples are benign"),
        (predictions.drop(columns="dx_type"), "column 'dx_type' is missing"),
        (predictions.assign(dx="wart"), "dx 'wart' is not one of akiec"),
        (predictions.assign(label=1), "labels contradict their dx"),
    ]
    for frame, message in cases:
        with pytest.raises(DataError, match=message):
            check(frame)


def test_a_report_folder_without_predictions_and_a_damaged_table_are_named(tmp_path, predictions):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "predictions.csv")
    damaged = predictions.astype({"prob_malignant": str}).assign(prob_malignant="much")
    (tmp_path / "predictions.csv").write_text(as_csv(damaged))
    with pytest.raises(DataError, match=r"column prob_malignant.*much"):
        read(tmp_path / "predictions.csv")


def test_a_shared_image_lesion_or_group_is_a_leak():
    held = pd.DataFrame({"image_id": ["a", "b"], "lesion_id": ["A", "B"], "group": ["A", "B"]})
    apart = pd.DataFrame({"image_id": ["c"], "lesion_id": ["C"], "group": ["C"]})
    assert overlap(held, apart) == {"images": 0, "lesions": 0, "groups of lesions": 0}
    refuse(held, apart, "test")
    for column, value in (("image_id", "a"), ("lesion_id", "A"), ("group", "A")):
        seen = apart.assign(**{column: value})
        assert sum(overlap(held, seen).values()) == 1
        with pytest.raises(DataError, match="for example image a"):
            refuse(held, seen, "test")
