"""What is claimed of a GPU: README's rows, their verdicts, the wheels in pieces, the dry run.

Nothing here looks at how fast anything was.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gpu import runner, wheels
from benchmarks.gpu.claims import AWAITS, BY_NAME, CLAIMS, readme_table, with_table
from benchmarks.gpu.plan import BUDGET
from pipeline.errors import DataError

ROOT = Path(__file__).parent.parent


def test_readme_shows_every_row_and_says_what_no_machine_has_filled() -> None:
    evidence = ROOT / "docs" / "gpu.json"
    rows = json.loads(evidence.read_text())["rows"] if evidence.is_file() else []
    readme = (ROOT / "README.md").read_text()
    assert readme_table(rows) in readme
    assert readme.count(f"| {AWAITS} |") == len(CLAIMS) - len(
        [row for row in rows if row["status"] in ("PASS", "FAIL", "measured")]
    )


def test_every_row_has_a_name_a_unit_and_a_part_within_nine_minutes() -> None:
    assert len(BY_NAME) == len(CLAIMS)
    assert all(claim.name and claim.unit and claim.part in BUDGET for claim in CLAIMS)
    assert {claim.part for claim in CLAIMS} == set(BUDGET)
    assert sum(BUDGET.values()) <= 9 * 60 - 30


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("mixed decoding alone, packed at 256 pixels", 9_999.0, "FAIL"),
        ("mixed decoding alone, packed at 256 pixels", 10_000.0, "PASS"),
        ("train.py killed and resumed: other images", 1, "FAIL"),
        ("train.py killed and resumed: other images", 0, "PASS"),
        ("loader, dali, basic", 1.0, "measured"),
    ],
)
def test_a_value_keeps_its_claim_or_not(name: str, value: float, verdict: str) -> None:
    assert BY_NAME[name].verdict(value, dry=False) == verdict


def test_what_a_machine_measured_goes_into_readme_and_the_rest_still_waits() -> None:
    measured = [
        {"name": "loader, dali, basic", "value": 8123.4, "status": "measured"},
        {"name": "step with loader over cached batch", "value": 0.91, "status": "FAIL"},
        {"name": "TF32 against float32", "value": None, "status": "no time left"},
    ]
    before = f"above\n\n{readme_table([])}\nbelow\n"
    after = with_table(before, readme_table(measured))
    assert after.startswith("above\n\n| on one GPU") and after.endswith("\nbelow\n")
    assert "| loader, dali, basic | images/s |  | 8,123 |" in after
    assert "| at least 0.95 | 0.91 (**FAIL**) |" in after
    assert after.count(AWAITS) == len(CLAIMS) - 2


def test_a_dry_run_does_not_go_into_readme(tmp_path: Path, command: Callable) -> None:
    path = tmp_path / "dry.json"
    path.write_text(json.dumps({"dry_run": True, "rows": []}))
    done = command("-m", "benchmarks.gpu", "--readme", path)
    assert done.returncode == 2 and "dry run says nothing about a GPU" in done.stderr


def test_of_several_runs_the_later_row_goes_into_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(readme_table([]))
    for name, status, value in (
        ("a", "measured", 5000.0),
        ("b", "measured", 6000.0),
        ("c", "no time left", None),
    ):
        row = {"name": "loader, dali, basic", "value": value, "status": status}
        (tmp_path / name).write_text(json.dumps({"dry_run": False, "rows": [row], "name": name}))
    runner.fill_readme([tmp_path / name for name in "abc"])
    assert "| loader, dali, basic | images/s |  | 6,000 |" in (tmp_path / "README.md").read_text()
    kept = json.loads((tmp_path / "docs" / "gpu.json").read_text())
    assert [run["name"] for run in kept["runs"]] == ["a", "b", "c"]
    assert [row["value"] for row in kept["rows"]] == [6000.0]


def test_without_time_every_row_says_so(tmp_path: Path, command: Callable) -> None:
    out = tmp_path / "out.json"
    done = command("-m", "benchmarks.gpu", "--dry-run", "--minutes", "0.01", "--json", out)
    rows = json.loads(out.read_text())["rows"]
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in rows] == [claim.name for claim in CLAIMS]
    assert {row["status"] for row in rows} == {"no time left"}
    assert "0 FAIL" in done.stdout.splitlines()[-1]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of a package below ``nvidia``, made by hand."""
    path = tmp_path / "made_up-1.0-py3-none-any.whl"
    info = "made_up-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nvidia/made_up/__init__.py", "ANSWER = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        names = [*archive.namelist(), f"{info}/RECORD"]
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


def cut(wheel: Path, folder: Path) -> list[Path]:
    """Cut a wheel into three pieces, as ``split`` does."""
    folder.mkdir()
    data, size = wheel.read_bytes(), wheel.stat().st_size // 3 + 1
    pieces = []
    for number in range(3):
        pieces.append(folder / f"{wheel.name}.part{number:02}")
        pieces[-1].write_bytes(data[number * size : (number + 1) * size])
    return pieces


def test_wheels_in_pieces_are_joined_and_installed_beside_what_is_there(
    wheel: Path, tmp_path: Path
) -> None:
    cut(wheel, tmp_path / "pieces")
    site = wheels.install(tmp_path / "pieces", tmp_path / "work")
    assert (tmp_path / "work" / "joined" / wheel.name).read_bytes() == wheel.read_bytes()
    # torch and DALI keep libraries of theirs below the same name
    code = "import nvidia.made_up, nvidia.dali; print(nvidia.made_up.ANSWER)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "42\n", done.stderr


def test_a_missing_piece_is_named(wheel: Path, tmp_path: Path) -> None:
    cut(wheel, tmp_path / "pieces")[1].unlink()
    with pytest.raises(DataError, match=r"made_up-1\.0-py3-none-any\.whl has pieces \[0, 2\]"):
        wheels.join(tmp_path / "pieces", tmp_path / "out")


@pytest.mark.slow
def test_a_dry_run_fills_every_row_but_those_that_need_cuda(
    tmp_path: Path, command: Callable
) -> None:
    out = tmp_path / "out.json"
    done = command("-m", "benchmarks.gpu", "--dry-run", "--json", out, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(out.read_text())
    rows = {row["name"]: row for row in facts["rows"]}
    assert list(rows) == [claim.name for claim in CLAIMS]
    needs_cuda = {name for name, row in rows.items() if row["status"] == "needs CUDA"}
    assert needs_cuda == {
        "the GPU",
        "tests that need a GPU",
        "train.py --mixed-precision fp16: last loss",
        "TF32 against float32",
        "DDP and shared batch norm on two GPUs",
    }
    assert all(row["value"] is not None for name, row in rows.items() if name not in needs_cuda)
    assert rows["train.py killed and resumed: other images"]["value"] == 0
    assert rows["train.py killed and resumed: last loss"]["value"] == 0  # a CPU repeats every bit
    table = done.stdout.split("\n\n")[-1]
    assert len(table) < 12_000 and "0 FAIL" in table


@pytest.mark.slow
def test_a_part_that_breaks_is_a_row_and_the_rest_goes_on(
    tmp_path: Path, command: Callable
) -> None:
    out, empty = tmp_path / "out.json", tmp_path / "empty"
    empty.mkdir()
    flags = ["--dry-run", "--parts", "loaders", "machine", "--originals", empty]
    done = command("-m", "benchmarks.gpu", *flags, "--json", out)
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert done.returncode == 1
    assert rows["the GPU"]["status"] == "needs CUDA"
    assert rows["loader, dali, basic"]["status"] == "FAIL"
    assert "no .jpg below" in rows["loader, dali, basic"]["note"]
