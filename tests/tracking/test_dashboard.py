"""The workspace as it is printed, against what runs really log."""

import json
import re

import pytest

DASHBOARD = ("-m", "pipeline.tracking", "dashboard")


@pytest.fixture(scope="module")
def view(command) -> dict:
    """What ``--print`` shows, while no server can be reached."""
    flags = ["--entity", "me", "--project", "moles", "--print"]
    done = command(*DASHBOARD, *flags, env={"WANDB_BASE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def panels(view: dict) -> list[dict]:
    return [panel for section in view["sections"] for panel in section["panels"]]


def metrics(panel: dict) -> list[str]:
    return [*panel.get("y", []), *panel.get("metrics", []), *panel.get("metric", {}).values()]


def test_view_belongs_to_entity_and_project_and_its_sections_stand_in_order(view):
    assert (view["entity"], view["project"]) == ("me", "moles")
    names = ["Validation", "Curves and cases", "Training", "Machine", "Judged on held-out images"]
    assert [section["name"] for section in view["sections"]] == names


def test_axes_are_epochs_and_images(view):
    lines = [panel for panel in panels(view) if "y" in panel]
    assert len(lines) > 10
    for panel in lines:
        (of,) = {name.partition("/")[0] for name in panel["y"]}
        assert panel["x"] == {"epoch": "epoch", "train": "samples"}[of]


def test_whatever_a_panel_shows_is_logged(view, train, tiny, tmp_path, read_wandb):
    flags = ["--tracker", "wandb", "--epochs", 1, "--run-dir", tmp_path]
    assert train(*tiny, *flags, env={"WANDB_MODE": "offline"}).codes == [0]
    logged = {name for row in read_wandb(tmp_path).rows for name in row}
    shown = {name for panel in panels(view) for name in metrics(panel)}
    judged = {name for name in shown if name.startswith("eval/")}
    assert len(judged) == 6
    shown |= set(re.findall(r"\w+_table\b", json.dumps(view)))
    shown |= {key for panel in panels(view) for key in panel.get("media_keys", [])}
    shown |= {panel["table_name"] for panel in panels(view) if "table_name" in panel}
    assert shown - judged - {"train/gpu_memory_gib"} <= logged
    charts = {"roc_table", "pr_table", "confusion_table", "misclassified", "predictions"}
    assert charts | {"best_roc_auc", "epoch/val_roc_auc", "train/loss"} <= shown


@pytest.mark.parametrize("words", [[], ["--entity", "a/b"], ["--entity", "me", "--project", ""]])
def test_mistakes_get_exit_code_2(command, words):
    done = command(*DASHBOARD, *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_without_a_login_it_says_how_to_get_one(command):
    done = command(*DASHBOARD, "--entity", "me", env={"NETRC": "/nowhere", "WANDB_API_KEY": ""})
    assert done.returncode == 2
    assert "wandb login" in done.stderr and "--print" in done.stderr
