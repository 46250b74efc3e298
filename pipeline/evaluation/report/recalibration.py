"""The curve of calibration error over the number of cases that a new calibration was fitted on.

save(draw(metrics["recalibration"]), Path("recalibration.png"))
"""

import numpy as np
from matplotlib.figure import Figure

from pipeline.figures import BLUE, ORANGE, blank


def draw(curve: list[dict]) -> Figure:
    """Draw calibration error and Brier score of each entry, with the bounds of its draws."""
    plot, (axes,) = blank(6, 4)
    cases = [entry["cases"] for entry in curve]
    lines = (("ece", "calibration error", BLUE), ("brier", "Brier score", ORANGE))
    for name, text, colour in lines:
        values = [entry[name] for entry in curve]
        low, high = np.transpose([entry[f"{name}_bounds"] or [entry[name]] * 2 for entry in curve])
        axes.plot(cases, values, color=colour, marker="o", label=text)
        axes.fill_between(cases, low, high, color=colour, alpha=0.2)
    axes.set(xlabel="images that the calibration was fitted on again; 0: as it is", ylim=(0, None))
    axes.set_xscale("symlog", linthresh=25)
    axes.set_xticks(cases, [f"{each:,}" for each in cases])
    axes.grid(alpha=0.25)
    axes.legend()
    return plot
