"""The tests that are marked ``gpu``: parity, resumption, shared batch norm, on this machine."""

import subprocess
import sys
from xml.etree import ElementTree

from benchmarks.gpu.plan import ROOT, Plan
from benchmarks.gpu.worker import Found, attempt

NAME = "tests that need a GPU"


def run(plan: Plan) -> None:
    """Run the files that have such tests, and only those tests."""
    attempt(NAME, lambda: outcome(plan))


def outcome(plan: Plan) -> Found:
    """Return the share that passes; skipped ones do not count and are named."""
    report = plan.work / "tests.xml"
    files = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text()
    )
    flags = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    words = [sys.executable, "-m", "pytest", *flags, *files]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if not report.is_file():
        if "No module named pytest" in done.stderr:
            return {"status": "not available", "note": "give the wheels of pytest"}
        raise RuntimeError((done.stdout + done.stderr).strip()[-250:] or "pytest wrote no report")
    return summary(ElementTree.parse(report))


def summary(report: "ElementTree.ElementTree[ElementTree.Element]") -> Found:
    """Return the row of a report of pytest."""
    results: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    reasons = []
    for case in report.iter("testcase"):
        kinds = {child.tag for child in case}
        word = "failed" if kinds & {"failure", "error"} else "passed"
        results["skipped" if "skipped" in kinds else word].append(str(case.get("name")))
        reasons += [str(child.get("message")) for child in case if child.tag == "skipped"]
    failed, passed, skipped = (results[name] for name in ("failed", "passed", "skipped"))
    note = f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped"
    note += f": {', '.join(failed)}" if failed else ""
    figures = {**results, "reasons": sorted(set(reasons))}
    if not passed and not failed:
        return {"status": "needs CUDA", "note": note, "figures": figures}
    share = len(passed) / (len(passed) + len(failed))
    return {"value": round(share, 3), "note": note, "figures": figures}
