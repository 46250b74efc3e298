"""What all pages share: their templates and filters, and how a folder of results is written.

    text = template("comparison.html.j2").render(summary=summary)
    write_files(Path("reports/a-b"), {"report.html": text, "comparison.json": as_json(summary)})

Every page extends ``templates/base.html.j2`` and opens offline.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pipeline.errors import DataError
from pipeline.files import write_file

TEMPLATES = Path(__file__).parent.parent / "templates"


def template(name: str, *folders: Path) -> jinja2.Template:
    """Return a template of the evaluation room, or of ``folders``, which are searched first.

    Values are escaped; an undefined one is an error. The filters ``figure``, ``ci`` and
    ``thousands`` write numbers.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": figure, "ci": ci, "thousands": "{:,}".format}
    return environment.get_template(name)


def figure(value: float | None, digits: int = 3) -> str:
    """Write a figure; a dash where it is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


def ci(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """Write an interval; a dash where there is none."""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}" if bounds else "–"


def as_json(values: dict[str, Any]) -> str:
    """Return strict JSON (no NaN)."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def write_files(out: Path, files: Mapping[str, bytes | str]) -> None:
    """Write finished files into ``out``, each whole and in this order; other files there stay.

    Raises:
        DataError: one cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(out / name, content)
    except OSError as error:
        raise DataError(f"cannot write a report into {out}: {error.strerror or error}") from error
