"""A folder that tells all of a judgement: metrics.json, predictions.csv, PNGs, report.html.

``write_report`` draws everything into a folder beside the final one and then moves it into place,
metrics.json last, so what is found under the final name is complete.

    write_report(Path("reports/r34"), frame, metrics, subject, tiles)
"""

import datetime
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation import predictions
from pipeline.evaluation.metrics.summary import CLASSES, write_json
from pipeline.evaluation.report import group_plots, plots
from pipeline.evaluation.report.data_card import FURTHER, HEADLINES, Subject, baselines, model_card
from pipeline.evaluation.report.gallery import choose, confidence, sample, surest_mistakes
from pipeline.evaluation.report.page import template
from pipeline.evaluation.report.pictures import as_webp
from pipeline.evaluation.report.sheets import Tile, sheet
from pipeline.figures import data_url, smaller_png
from pipeline.ham10000.taxonomy import DX, DX_NAMES

SAMPLED = 12
"""Malignant and benign images each on the sheet of sample predictions."""

SHEET_MISTAKES = 24
"""Mistakes on the sheet of misclassified cases."""

SHOWN_SIDE = 144
"""Pixels of a picture in the report's galleries."""


@dataclass(frozen=True)
class Shown:
    """The pictures of one case."""

    picture: np.ndarray
    """[S, S, 3] uint8 RGB, what the model saw."""
    overlay: np.ndarray
    """[S, S, 3] uint8 RGB, with its Grad-CAM."""


def rows_to_show(
    frame: pd.DataFrame, *, threshold: float, each: int, seed: int
) -> dict[str, np.ndarray]:
    """Row numbers of the cases that the report needs pictures of, by where they are shown."""
    return {
        **choose(frame, threshold=threshold, each=each),
        "sample": sample(frame, each=SAMPLED, seed=seed),
        "mistakes": surest_mistakes(frame, threshold=threshold, count=SHEET_MISTAKES),
    }


def write_report(
    out: Path,
    frame: pd.DataFrame,
    metrics: dict,
    subject: Subject,
    shown: dict[int, Shown],
    chosen: dict[str, np.ndarray],
) -> None:
    """Write the report's folder.

    Args:
        out: the folder; files of an earlier report in it are replaced.
        frame: the predictions.
        metrics: from ``summarise``.
        subject: what was judged.
        shown: pictures by row number.
        chosen: from ``rows_to_show``.
    """
    with staged(out) as folder:
        draw_plots(folder, frame, metrics)
        draw_sheets(folder, frame, shown, chosen)
        page = render(folder, frame, metrics, subject, shown, chosen)
        (folder / "report.html").write_text(page, encoding="utf-8")
        predictions.write(frame, folder / "predictions.csv")
        write_json(metrics, folder / "metrics.json")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to write into, whose files move to ``out`` in the end, metrics.json last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        out.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda p: p.suffix == ".json"):
            path.replace(out / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def draw_plots(folder: Path, frame: pd.DataFrame, metrics: dict) -> None:
    """Write the plots as PNG."""
    figures = {
        "roc": plots.roc(frame, metrics),
        "precision_recall": plots.precision_recall(frame, metrics),
        "confusion_matrix": plots.confusion(metrics["confusion_matrix"], list(CLASSES)),
        "calibration": plots.calibration(frame, metrics),
        "scores_by_dx": plots.scores_by_dx(frame, metrics),
        "subgroups": group_plots.forest(metrics),
        "error_rates": group_plots.error_rates(metrics),
    }
    if "confusion_matrix_dx" in metrics:
        figures["confusion_matrix_dx"] = plots.confusion(metrics["confusion_matrix_dx"], list(DX))
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")


def draw_sheets(
    folder: Path, frame: pd.DataFrame, shown: dict[int, Shown], chosen: dict[str, np.ndarray]
) -> None:
    """Write the sheets of sample predictions and of misclassified cases."""
    rows = frame.to_dict("records")
    drawn = [tile(rows[row], shown[row], overlay=False) for row in chosen["sample"]]
    title = f"Sample predictions: {len(drawn)} drawn at random, half of them malignant"
    sheet(drawn, title).save(folder / "sample_predictions.png")
    wrong = [tile(rows[row], shown[row], overlay=True) for row in chosen["mistakes"]]
    title = f"Misclassified: the {len(wrong)} most confident mistakes, with Grad-CAM"
    sheet(wrong, title).save(folder / "misclassified.png")


def tile(row: dict, shown: Shown, *, overlay: bool) -> Tile:
    """One case of a sheet."""
    right = row["label"] == row["predicted"]
    age = "age unknown" if pd.isna(row["age"]) else f"{row['age']:.0f} y"
    return Tile(
        picture=shown.picture,
        overlay=shown.overlay if overlay else None,
        right=bool(right),
        lines=(
            f"{'right' if right else 'WRONG'}: p = {row['prob_malignant']:.3f}",
            f"actual {CLASSES[row['label']]} ({row['dx']})",
            f"predicted {CLASSES[row['predicted']]}",
            f"{row['image_id']}",
            f"{age}, {row['sex']}, {row['localization']}",
        ),
    )


def cases(
    frame: pd.DataFrame, threshold: float, shown: dict[int, Shown], rows: np.ndarray
) -> list[dict]:
    """What a gallery shows of each case."""
    sure = confidence(frame["prob_malignant"].to_numpy(), threshold)
    records, result = frame.to_dict("records"), []
    for row in rows:
        record = records[row]
        result.append({
            "image_id": record["image_id"], "dx": record["dx"], "dx_name": DX_NAMES[record["dx"]],
            "age": None if pd.isna(record["age"]) else int(record["age"]), "sex": record["sex"],
            "site": record["localization"] or "unknown", "dx_type": record["dx_type"],
            "actual": CLASSES[record["label"]], "called": CLASSES[record["predicted"]],
            "prob": float(record["prob_malignant"]), "confidence": float(sure[row]),
            "picture": data_url(as_webp(shown[row].picture), "webp"),
            "overlay": data_url(as_webp(shown[row].overlay, 50), "webp"),
        })  # fmt: skip
    return result


def figure_rows(metrics: dict, names: tuple[tuple[str, str], ...]) -> list[dict]:
    """Figures with their intervals and those per lesion, for a table."""
    lesion = metrics["per_lesion"]
    return [
        {
            "key": key, "name": name, "value": metrics[key], "ci": metrics["ci95"].get(key),
            "lesion": lesion[key], "lesion_ci": lesion["ci95"].get(key),
        }
        for key, name in names
    ]  # fmt: skip


def render(
    folder: Path,
    frame: pd.DataFrame,
    metrics: dict,
    subject: Subject,
    shown: dict[int, Shown],
    chosen: dict[str, np.ndarray],
) -> str:
    """The page as text, with the folder's plots inside."""
    return template("report.html.j2").render(
        metrics=metrics,
        subject=subject,
        headlines=figure_rows(metrics, HEADLINES),
        further=figure_rows(metrics, FURTHER),
        baselines=baselines(metrics),
        card=model_card(subject, metrics),
        images={
            p.stem: data_url(smaller_png(p.read_bytes()), "png")
            for p in sorted(folder.glob("*.png"))
            if p.stem not in ("sample_predictions", "misclassified")
        },
        galleries={
            kind: cases(frame, metrics["threshold"], shown, rows)
            for kind, rows in chosen.items()
            if kind not in ("sample", "mistakes")
        },
        totals=kind_totals(metrics),
        factor_names=group_plots.FACTOR_NAMES,
        findings=findings(metrics),
        dx_names=DX_NAMES,
        today=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )  # fmt: skip


def kind_totals(metrics: dict) -> dict[str, int]:
    """How many cases of each kind there are in all."""
    (tn, fp), (fn, tp) = metrics["confusion_matrix"]
    return {"false negatives": fn, "false positives": fp, "true positives": tp,
            "true negatives": tn}  # fmt: skip


def findings(metrics: dict) -> list[str]:
    """In words: of each factor, the level with the highest error rate that stands out.

    A level stands out when its interval lies wholly above the error rate of all images.
    """
    overall, found = metrics["error_rate"], []
    for factor, levels in metrics["errors"].items():
        rated = {k: v for k, v in levels.items() if v.get("error_rate") is not None}
        high = {
            k: v
            for k, v in rated.items()
            if (bounds := v["ci95"].get("error_rate")) and bounds[0] > overall
        }
        for level, entry in sorted(high.items(), key=lambda item: -item[1]["error_rate"]):
            low, top = entry["ci95"]["error_rate"]
            found.append(
                f"{group_plots.FACTOR_NAMES[factor]}, {level}: {entry['error_rate']:.1%} wrong "
                f"({low:.1%} to {top:.1%}; {entry['errors']} of {entry['n']})"
            )
    return found
