"""The workspace as it would be sent, against what runs really log."""

import json
import re
import sys

import pytest

from pipeline.cli import guard
from pipeline.tracking import dashboard
from pipeline.tracking.dashboard import specification, workspace


@pytest.fixture(scope="module")
def sent():
    """The JSON text that the server would get, read back."""
    return json.loads(workspace("me", "moles", "a view")._to_model().spec.model_dump_json(
        by_alias=True, exclude_none=True
    ))  # fmt: skip


def panels(sent: dict) -> dict[str, list[dict]]:
    sections = sent["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections if section["panels"]}


def test_view_belongs_to_entity_and_project():
    view = specification(workspace("me", "moles", "a view"))
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "moles", "a view")


def test_panels_that_matter_stand_in_order(sent):
    found = panels(sent)
    names = ["Validation", "Curves and cases", "Training", "Machine", "Judged on held-out images"]
    assert list(found) == names
    drawn = [
        name for group in found.values() for p in group for name in p["config"].get("metrics", [])
    ]
    for name in ("epoch/val_roc_auc", "epoch/val_pr_auc", "epoch/val_loss", "train/loss",
                 "train/lr", "train/images_per_second", "train/waiting_share",
                 "train/gpu_memory_gib", "summary_metrics.best_roc_auc"):  # fmt: skip
        assert name in drawn, name
    kinds = {panel["viewType"] for group in found.values() for panel in group}
    assert {"Run History Line Plot", "Vega2", "Media Browser", "Bar Chart"} <= kinds


def test_axes_are_epochs_and_images(sent):
    for group in panels(sent).values():
        for panel in group:
            config = panel["config"]
            if panel["viewType"] == "Run History Line Plot":
                of = {name.partition("/")[0] for name in config["metrics"]}
                assert config["xAxis"] == {"epoch": "epoch", "train": "samples"}[of.pop()]
                assert not of


def test_whatever_a_panel_shows_is_logged(sent, train, tiny, tmp_path, read_wandb):
    flags = ["--tracker", "wandb", "--wandb", "offline", "--epochs", 1, "--run-dir", tmp_path]
    assert train(*tiny, *flags).codes == [0]
    logged = {name for row in read_wandb(tmp_path).rows for name in row}
    shown: set[str] = set()
    for group in panels(sent).values():
        for panel in group:
            shown |= {
                name.removeprefix("summary_metrics.") for name in panel["config"].get("metrics", [])
            }
            shown |= set(panel["config"].get("mediaKeys", []))
            shown |= set(re.findall(r"\w+_table\b", json.dumps(panel["config"].get("userQuery"))))
    on_gpu = {"train/gpu_memory_gib"}
    judged = {name for name in shown if re.search(r"(^|[/.])eval/", name)}
    assert len(judged) == 6
    assert shown - on_gpu - judged <= logged
    assert {"roc_table", "pr_table", "confusion_table", "misclassified"} <= shown


def typed(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dashboard", *words])
    try:
        guard(dashboard.main)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_print_shows_the_view_and_asks_nobody(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert typed(monkeypatch, "--entity", "me", "--project", "moles", "--print") == 0
    assert json.loads(capsys.readouterr().out)["entity"] == "me"


@pytest.mark.parametrize("words", [[], ["--entity", "a/b"], ["--entity", "me", "--project", ""]])
def test_mistakes_get_exit_code_2(monkeypatch, capsys, words):
    assert typed(monkeypatch, *words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_without_a_login_it_says_how_to_get_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert typed(monkeypatch, "--entity", "me") == 2
    message = capsys.readouterr().err
    assert "wandb login" in message and "--print" in message
