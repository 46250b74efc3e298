"""What a search finds and writes, and what it refuses, with a stand-in for train.py."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import create_trial

from pipeline.cli import parse
from pipeline.search.flags import SearchFlags
from pipeline.search.report import best_of, make_table
from pipeline.search.space import default_space, words_of
from pipeline.training.flags import TrainFlags

ROOT = Path(__file__).resolve().parents[2]

SHORT = ("--only", "lr", "augment", "--epochs", 3, "--pruner", "none")


def test_best_flags_are_printed_as_a_command_that_train_py_takes(desk):
    fixed = ("--", "--image-size", 64, "--weights", "none")
    assert desk.run("--trials", 4, "--epochs", 2, 4, *fixed) == 0, desk.said()
    table = desk.table()
    tables = {n: pd.read_csv(desk.study / f"trials/{n:03d}/history.csv") for n in range(4)}
    reached = {n: rows["val_roc_auc"].max() for n, rows in tables.items()}
    assert table["roc_auc"].to_dict() == pytest.approx(reached)
    complete = table[table["state"] == "complete"]["roc_auc"]
    best = int(complete.idxmax())
    printed = re.findall(r"^accelerate launch .*$", desk.said(), re.MULTILINE)[-1]
    *launch, script = shlex.split(printed)[:3]
    assert launch == ["accelerate", "launch"] and script.endswith("fake_training.py")
    named = parse(TrainFlags, argv=shlex.split(printed)[3:]).flat()
    trained = parse(TrainFlags, argv=desk.starts(f"{best:03d}")[0][0].split()).flat()
    assert named == {**trained, "run_dir": named["run_dir"]} and named["image_size"] == 64
    assert not Path(named["run_dir"]).exists()  # a fresh training, not the trial's own folder
    assert json.loads((desk.study / "best.json").read_text())["trial"] == best


def test_the_best_trial_is_the_first_row_in_a_tie_and_after_a_retry_too():
    def trial(number, value, epochs, **attributes):
        found = create_trial(value=value, intermediate_values=epochs, user_attrs=attributes)
        found.number = number
        return found

    trials = [
        trial(7, 0.8, {1: 0.8}, run=3),  # a retry of the third, which stands later in the database
        trial(2, 0.9, {1: 0.7}),  # its best epoch ended after the last report
        trial(1, 0.9, {1: 0.9}),
    ]
    table = make_table(trials, {})
    assert best_of(trials) is trials[2]
    assert table["trial"].tolist() == [1, 2, 3]
    assert table["roc_auc"].tolist() == [0.9, 0.9, 0.8]


def test_page_opens_offline_and_holds_table_plots_and_command(desk):
    assert desk.run(*SHORT, "--trials", 5, draw=True) == 0, desk.said()
    page = (desk.study / "search.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)|url\(|@import|https?:""", page) == []
    assert "accelerate launch" in page
    rows = re.findall(r'<tr><th scope="row"[^>]*>(\d+)</th><td>(\w+)</td><td>([\d.]+)', page)
    expected = desk.table().sort_values("roc_auc", ascending=False)
    assert [int(n) for n, _, _ in rows] == expected.index.to_list()
    assert [float(v) for _, _, v in rows] == pytest.approx(expected["roc_auc"], abs=1e-4)
    for name in ("history", "curves", "parallel", "importance"):
        assert (desk.study / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_worst_trials_are_ended_early_by_successive_halving(desk):
    desk.env = {"FAKE_SECONDS": "0.3"}
    assert desk.run("--only", "lr", "--epochs", 9, "--trials", 6) == 0, desk.said()
    table, reached = desk.table(), {1: [], 3: []}
    for number, row in table.iterrows():  # the rule of the paper, written down a second time
        values = pd.read_csv(desk.study / f"trials/{number:03d}/history.csv")["val_roc_auc"]
        stopped_after = 9
        for rung, seen in reached.items():
            seen.append(values[rung - 1])
            if values[rung - 1] < sorted(seen, reverse=True)[max(1, len(seen) // 3) - 1]:
                stopped_after = rung
                break
        assert row["state"] == ("complete" if stopped_after == 9 else "pruned"), table
        assert stopped_after <= row["epochs"] and (row["epochs"] == 9) == (stopped_after == 9)
        end = "done" if stopped_after == 9 else "saved"
        assert desk.events(f"{number:03d}") == ["start", end]
        assert not (desk.study / f"trials/{number:03d}/checkpoints").exists()
    assert {"complete", "pruned"} == set(table["state"])


def test_the_same_seed_tries_the_same_flags(desk, other_desk):
    for one in (desk, other_desk):
        assert one.run("--epochs", 1, "--trials", 2) == 0, one.said()
    for run in ("000", "001"):
        first, second = (d.starts(run)[0][0].replace(str(d.folder), "") for d in (desk, other_desk))
        assert first == second
    assert len({desk.starts(run)[0][0].split("--lr")[1] for run in ("000", "001")}) == 2


# -- failures and mistakes


def test_failed_trials_count_and_say_why(desk):
    desk.env = {"FAKE_NAN": "1e-3"}
    assert desk.run(*SHORT, "--trials", 6) == 0, desk.said()
    table = desk.table()
    assert set(table["state"]) == {"complete", "failed"} and len(table) == 6
    assert (table["lr"] > 1e-3).to_list() == (table["state"] == "failed").to_list()
    assert set(table[table["state"] == "failed"]["reason"]) == {"error: the loss is nan"}


@pytest.mark.parametrize(("trials", "started"), [(20, 3), (2, 2)])
def test_search_in_which_every_trial_fails_ends_with_the_trainings_message(desk, trials, started):
    desk.env = {"FAKE_NAN": "0"}
    assert desk.run(*SHORT, "--trials", trials) == 2
    assert f"{started} trial(s) have failed and none has succeeded" in desk.said()
    assert "the loss is nan" in desk.said() and "Traceback" not in desk.said()
    assert len(desk.diary()) == started
    assert desk.table()["state"].to_list() == ["failed"] * started


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--", "--image-sise", 64), "--image-size"),
        (("--", "--loss", "logit-adjusted", "--balance", "oversample"), "twice"),
        (("--", "--run-dir", "x"), "--run-dir after -- is a flag of the search"),
        (("--only", "lr", "rate"), "there is no such parameter"),
        (("--epochs", 1, 2, 3), "--epochs takes"),
        (("--storage", "nosuch://host/db"), "the study cannot be opened"),
        (("--storage", "some/file.journal"), "expected a database URL"),
        (("--only", "lr", "--epochs", 3, "--", "--lr", "1e-3"), "nothing is left to search"),
        (("--shards", "no/such/folder"), "--shards no/such/folder: there is no manifest.json"),
    ],
)
def test_mistakes_end_with_one_message_before_the_first_trial(desk, words, message):
    assert desk.run(*words) == 2
    assert message in desk.said() and "Traceback" not in desk.said()
    assert not desk.diary()


def test_study_is_not_continued_with_other_flags_or_other_shards(desk):
    assert desk.run(*SHORT, "--trials", 1) == 0, desk.said()
    assert desk.run(*SHORT, "--trials", 2, "--", "--image-size", 64) == 2
    assert "other flags, ranges or shards (every: " in desk.said()
    desk.manifest.write_text('{"other": 1}')
    assert desk.run(*SHORT, "--trials", 2) == 2
    assert "other flags, ranges or shards (manifest_sha256: " in desk.said()
    assert len(desk.starts("000")) == 1 and not desk.starts("001")


# -- flags


@pytest.mark.parametrize("command", ["accelerate launch train.py", "python train.py"])
def test_train_py_is_found_from_any_folder_and_a_local_one_comes_first(
    tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    flags = SearchFlags(command=command)
    assert str(ROOT / "train.py") in flags.training(tmp_path, [])
    (tmp_path / "train.py").touch()
    assert "train.py" in flags.training(tmp_path, [])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_default_choice_is_taken_by_train_py(optimizer):
    space = default_space(optimizer)
    for name, values in space.items():
        ends = (getattr(values, "low", None), getattr(values, "high", None))
        for value in getattr(values, "choices", ends):
            words = [*words_of({name: value}), "--optimizer", optimizer]
            flags = parse(TrainFlags, argv=words).flat()
            if name != "remedy":
                assert flags[name.replace("-", "_")] == pytest.approx(value)


def test_fixed_flags_are_not_searched(desk):
    assert desk.run("--trials", 1, "--epochs", 1, "--", "--loss=focal", "--arch", "resnet18") == 0
    given = desk.starts("000")[0][0].split()
    assert given.count("--arch") == 1
    assert "--balance" not in given and "--class-weights" not in given
    assert not {"arch", "remedy"} & set(desk.table().columns)


def test_space_can_be_any_flags_of_train_py(desk):
    desk.folder.joinpath("space.toml").write_text(
        "lr = {low = 1e-4, high = 1e-3, log = true}\nmixup = {low = 0.0, high = 0.4}\n"
        'batch-size = [8, 24]\naccumulate = {low = 2, high = 3}\nmixed-precision = ["no"]\n'
    )
    words = ("--space", desk.folder / "space.toml", "--trials", 4, "--epochs", 1)
    assert desk.run(*words) == 0, desk.said()
    given = [desk.starts(f"{n:03d}")[0][0].split() for n in range(4)]
    flags = pd.DataFrame([parse(TrainFlags, argv=words).flat() for words in given])
    assert flags["lr"].between(1e-4, 1e-3).all() and flags["mixup"].between(0, 0.4).all()
    assert flags["batch_size"].isin([8, 24]).all() and flags["accumulate"].isin([2, 3]).all()
    assert set(flags["mixed_precision"]) == {"no"}
