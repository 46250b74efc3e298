"""What is kept of a trained model, and what is refused when it is read."""

import json

import pandas as pd
import pytest
import torch

from pipeline.errors import DataError
from pipeline.files import publish_folder
from pipeline.learning.model import build_model
from pipeline.learning.stored_model import (
    ModelCard,
    edits,
    load_stored,
    read_card,
    samples_csv,
    stored_files,
)
from pipeline.training.checkpoints import best_is_of

SAMPLES = pd.DataFrame(
    {"image_id": ["a", "b"], "lesion_id": ["l", ""], "group": ["l", "b"], "split": ["train", "val"]}
)


@pytest.fixture
def run(tmp_path):
    """A run folder with a model under best, the model, and its card."""
    model = build_model("resnet18", 2)
    card = ModelCard("resnet18", "binary", ("benign", "malignant"), 64, threshold=0.3)
    publish_folder(tmp_path / "best", stored_files(model.state_dict(), card, samples_csv(SAMPLES)))
    return tmp_path, model, card


def test_a_stored_model_reads_back_whole(run):
    folder, model, card = run
    for path in (folder, folder / "best"):
        loaded, found, samples = load_stored(path)
        assert found == read_card(folder / "best")
        assert (found.arch, found.classes, found.threshold) == (card.arch, card.classes, 0.3)
        assert len(found.weights_sha256) == 64 and not loaded.training
        assert samples.to_dict("list") == SAMPLES.to_dict("list")
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("left", ["nothing", "a file with the link's text"])
def test_a_run_copied_without_its_link_opens(run, left):
    folder, _, card = run
    (folder / "best").rename(folder / "best-step-00000007")
    if left != "nothing":
        (folder / "best").write_text("best-step-00000007")
    for path in (folder, folder / "best", folder / "best-step-00000007" / "model.json"):
        assert load_stored(path)[1].threshold == card.threshold


def test_a_link_copied_without_its_model_is_named(tmp_path):
    (tmp_path / "best").symlink_to("best-step-00000007")
    for path in (tmp_path, tmp_path / "best"):
        with pytest.raises(DataError, match=r"is a link to best-step-00000007, which is not there"):
            load_stored(path)


def test_a_run_gets_its_link_again_when_its_training_ends(run):
    (run[0] / "best").rename(run[0] / "best-step-00000007")
    assert best_is_of(run[0], 0) and not best_is_of(run[0], 5)
    assert (run[0] / "best").readlink().name == "best-step-00000007"


@pytest.mark.parametrize("missing", ["model.safetensors", "training_samples.csv"])
def test_an_incomplete_model_is_refused(run, missing):
    (run[0] / "best" / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} missing"):
        load_stored(run[0])


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no stored model there .*give RUN/best"):
        load_stored(tmp_path)


def test_damaged_weights_are_refused(run):
    (run[0] / "best" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="damaged or replaced"):
        load_stored(run[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet34"}, "do not fit resnet34"),
        ({"format_version": 99}, "format version 99, expected 1"),
        ({"colour": "red"}, "missing or unknown fields .*colour"),
        ({"mean": [0.5, 0.5, 0.5]}, r"mean \(0.5, 0.5, 0.5\).* are normalised with mean \(0.485"),
        ({"std": [1.0, 1.0, 1.0]}, r"std \(1.0, 1.0, 1.0\).*train again"),
    ],
)
def test_a_card_that_does_not_describe_the_model_is_refused(run, change, message):
    path = run[0] / "best" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load_stored(run[0], allow_edited=True)


@pytest.mark.parametrize("name", ["model.json", "training_samples.csv"])
def test_every_flipped_byte_is_refused_or_changes_nothing(run, name):
    path = run[0] / "best" / name
    written, (_, card, samples) = path.read_bytes(), load_stored(run[0])
    for at in range(0, len(written), 7):
        path.write_bytes(written[:at] + bytes([written[at] ^ 1 << at % 8]) + written[at + 1 :])
        try:
            _, found, table = load_stored(run[0])
        except DataError as error:
            assert name in str(error)
        else:
            assert name == "model.json" and found == card and table.equals(samples)


def test_an_edited_model_is_refused_by_name_unless_allowed(run, capsys):
    path = run[0] / "best" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.1}))
    with pytest.raises(DataError, match=r"model.json damaged or edited.*--allow-edited"):
        load_stored(run[0])
    assert load_stored(run[0], allow_edited=True)[1].threshold == 0.1
    assert edits(run[0]) == ["model.json"]
    assert "warning" in capsys.readouterr().err


def test_a_card_of_an_earlier_revision_opens_without_the_newer_fields(run, capsys):
    path = run[0] / "best" / "model.json"
    values = json.loads(path.read_text())
    for name in ("bias", "without_tta", "refit_head", "card_sha256", "samples_sha256"):
        del values[name]
    path.write_text(json.dumps(values))
    assert load_stored(run[0])[1].bias == 0.0
    assert "without digests" in capsys.readouterr().err


def test_the_threshold_of_another_test_time_augmentation_is_refused():
    plain = {"threshold": 0.4, "temperature": 1.5, "bias": -0.1}
    card = ModelCard("resnet18", "binary", ("b", "m"), 64, tta="flips", without_tta=plain)
    assert card.at("flips") is card
    assert (card.at("none").tta, card.at("none").threshold) == ("none", 0.4)
    with pytest.raises(DataError, match="fitted with none and flips"):
        card.at("dihedral")
