"""The parts, one after the other, each in a process and in the time that is left to it.

    images, shards -> machine, tests, decode, loaders, step, commands, judge, recipe -> rows -> JSON

Rows are printed and written as they come. Exit code 1: a claim failed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import wheels
from benchmarks.gpu.claims import BY_NAME, CLAIMS, FILLED, Row, line, readme_table, with_table
from benchmarks.gpu.plan import BUDGET, ROOT, Options, Plan
from benchmarks.gpu.worker import MARK
from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.files import write_output

NEEDS_IMAGES = ("decode", "loaders", "step", "commands", "judge", "recipe")
LEAST = 3.0
"""Seconds in which no part can do anything."""


def run(*, about: str) -> None:
    """Do what the flags say; ``about`` is what ``--help`` says first."""
    options = parse(Options, about=about)
    if options.list_wheels:
        print("\n".join(wheels.listing()))
    elif options.readme:
        fill_readme(options.readme)
    else:
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
            record = measured(options, Path(folder))
        print(record.table(), flush=True)
        if any(row.status == "FAIL" for row in record.rows.values()):
            raise SystemExit(1)


def fill_readme(paths: Sequence[Path]) -> None:
    """Write the rows of JSONs into README's table, and keep them together as docs/gpu.json.

    Raises:
        DataError: one is none of a real run.
    """
    rows: dict[str, Any] = {}
    runs = []
    for path in paths:
        try:
            facts = json.loads(path.read_text())
            found, dry = facts.pop("rows"), facts["dry_run"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"--readme {path}: no JSON of this benchmark ({error})") from error
        if dry:
            raise DataError(f"--readme {path}: the JSON of a dry run says nothing about a GPU")
        rows |= {row["name"]: row for row in found if row["status"] in FILLED}
        runs.append(facts)
    readme = ROOT / "README.md"
    write_output(readme, with_table(readme.read_text(), readme_table(rows.values())))
    kept = {"runs": runs, "rows": list(rows.values())}
    write_output(ROOT / "docs" / "gpu.json", json.dumps(kept, indent=1) + "\n")


@dataclass
class Record:
    """The rows so far, printed and written as they come."""

    options: Options
    began: float = field(
        default_factory=lambda: float(os.environ.get(wheels.BEGAN, time.monotonic()))
    )
    rows: dict[str, Row] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    """What the machine said of itself."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each part."""

    def left(self) -> float:
        """Return the seconds of the time limit that are left."""
        return 60 * self.options.minutes - (time.monotonic() - self.began)

    def add(self, row: Row) -> None:
        """Print a row, and write all."""
        self.rows[row.name] = row
        print(line(row), flush=True)
        self.write()

    def found(self, facts: dict[str, Any]) -> None:
        """Add the row that a part printed."""
        name, value = facts.pop("name"), facts.pop("value", None)
        status = facts.pop("status", None)
        if status is None:
            status = BY_NAME[name].verdict(value, dry=self.options.dry_run)
        self.add(Row(name, value, status, **facts))

    def write(self) -> None:
        """Write the JSON whole, where one is asked for."""
        if self.options.json is None:
            return
        head = {"dry_run": self.options.dry_run, "shards": str(self.options.shards or "made up")}
        spent = {"seconds": round(time.monotonic() - self.began, 1), "parts": self.seconds}
        rows = [self.rows[claim.name].facts() for claim in CLAIMS if claim.name in self.rows]
        facts = {**head, **spent, "machine": self.facts, "rows": rows}
        write_output(self.options.json, json.dumps(facts, indent=1) + "\n")

    def table(self) -> str:
        """Return all rows, and how many kept their claims, in under 12,000 characters."""
        rows = [self.rows[claim.name] for claim in CLAIMS if claim.name in self.rows]
        count = {status: sum(row.status == status for row in rows) for status in ("PASS", "FAIL")}
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        ends = f"{count['PASS']} PASS, {count['FAIL']} FAIL, {len(rows)} rows; seconds: {parts}"
        return "\n".join(["", *map(line, rows), ends])


def measured(options: Options, work: Path) -> Record:
    """Run the parts, each in the time that is left to it."""
    record = Record(options)
    env = environment(options, work)
    plan = Plan(
        work=work,
        dry=options.dry_run,
        originals=options.originals and options.originals.resolve(),
        shards=options.shards and options.shards.resolve(),
    )
    with ThreadPoolExecutor(1) as pool:  # images are made while the tests run
        made = pool.submit(run_part, "data", plan, Record(options), env, record.left())
        for number, part in enumerate(BUDGET):
            if part not in options.parts:
                continue
            if part in NEEDS_IMAGES and (problem := made.result()):
                close(record, part, problem)
                continue
            kept = sum(list(BUDGET.values())[number + 1 :])
            seconds = min(max(record.left() - kept, BUDGET[part]), record.left())
            problem = run_part(part, replace(plan, seconds=seconds), record, env, seconds)
            close(record, part, problem)
            if part == "machine" and problem and not options.dry_run:
                os_error = f"no CUDA: {problem}"
                raise DataError(f"{os_error}; --dry-run needs none (nvidia-smi shows the driver)")
    return record


def close(record: Record, part: str, problem: str) -> None:
    """Give the rows that a part did not print their reason."""
    late = problem == "no time left"
    for claim in CLAIMS:
        if claim.part == part and claim.name not in record.rows:
            status = "no time left" if late else "FAIL"
            note = "" if late else (problem or "the part ended without it")
            record.add(Row(claim.name, None, status, note))


def environment(options: Options, work: Path) -> dict[str, str]:
    """Return the environment of the parts: this code, and one cache of compiled kernels."""
    given = os.environ.get("PYTHONPATH", "")
    env = {**os.environ, "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [given])])
    env["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")
    env["TRITON_CACHE_DIR"] = str(work / "triton")
    if options.dry_run:
        env |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_COMPILE_DISABLE": "1"}
    return env


def run_part(part: str, plan: Plan, record: Record, env: dict[str, str], seconds: float) -> str:
    """Run a part in a process; add its rows; return "" or why it did not end well."""
    if seconds < LEAST:
        return "no time left"
    began, log = time.monotonic(), plan.work / f"{part}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.worker", part, plan.words()],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    with ended_after(process, seconds) as late:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith(MARK):
                record.found(json.loads(text.removeprefix(MARK)))
            elif part == "machine":
                record.facts.append(text.rstrip())
        code = process.wait()
    record.seconds[part] = round(time.monotonic() - began, 1)
    if late.is_set():
        return "no time left"
    last = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
    return f"exit code {code}: {' '.join(last[-1:])[:250]}" if code else ""


@contextlib.contextmanager
def ended_after(process: "subprocess.Popen[str]", seconds: float) -> Iterator[threading.Event]:
    """End a process and all that it started after ``seconds``; yield whether that happened."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        if process.poll() is None:
            end()
