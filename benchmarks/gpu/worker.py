"""The process of one part: it prints a line for each row that it has, as soon as it has it.

python -m benchmarks.gpu.worker decode PLAN    # benchmarks.gpu starts it
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.plan import Plan
from pipeline.cli import guard

MARK = "ROW "
"""Begins the line of a row; other lines are what libraries print."""

Found = dict[str, Any]
"""Value, and if there is one status, note and figures of a row."""


def emit(name: str, value: float | str | None = None, **rest: Any) -> None:
    """Print a row; ``rest`` may have ``status``, ``note`` and ``figures``."""
    print(MARK + json.dumps({"name": name, "value": value, **rest}, default=str), flush=True)


def attempt(name: str, measure: Callable[[], Found]) -> None:
    """Print the row that ``measure`` returns, or FAIL with its error: the next one is tried."""
    try:
        emit(name, **measure())
    except Exception as error:  # a report of whatever goes wrong is this program's purpose
        emit(name, status="FAIL", note=said(error))


def said(error: BaseException) -> str:
    """Return an error in a line."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]


def device_of(plan: Plan) -> Any:
    """Return the device that the part works on."""
    import torch

    return torch.device("cpu") if plan.dry else torch.device("cuda", 0)


def main() -> None:
    """Run the part that the command line names."""
    part, plan = sys.argv[1], Plan.read(sys.argv[2])
    importlib.import_module(f"benchmarks.gpu.{part}").run(plan)


if __name__ == "__main__":
    guard(main)
