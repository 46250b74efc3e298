"""What TensorBoard's own reader finds of a training."""

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BATCH = 6


def test_tensorboard_holds_the_same_figures_after_a_kill(train, tiny, tmp_path):
    flags = [*tiny, "--tracker", "tensorboard", "--mixed-precision", "no"]
    flags += ["--run-dir", tmp_path, "--checkpoint-steps", 4]
    assert train(*flags, die=[0, "step", "25"]).codes == [-9]
    assert train(*flags).codes == [0]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    losses = [event.step for event in events.Scalars("train/loss")]
    assert losses == [BATCH * step for step in (10, 20, 30)]
    history = pd.read_csv(tmp_path / "history.csv")
    for name in ("val_roc_auc", "val_loss", "train_loss", "val_sensitivity"):
        logged = events.Scalars(f"epoch/{name}")
        assert [event.step for event in logged] == history["samples"].to_list()
        assert np.allclose([event.value for event in logged], history[name], atol=1e-6)
    cells = ("true_positives", "true_negatives", "false_positives", "false_negatives")
    counts = {cell: events.Scalars(f"confusion/{cell}")[-1].value for cell in cells}
    assert sum(counts.values()) == 23
    malignant = counts["true_positives"] + counts["false_negatives"]
    sensitivity = counts["true_positives"] / malignant
    assert np.isclose(sensitivity, history["val_sensitivity"].iloc[-1])
    assert {"misclassified", "predictions"} <= {t.split("/")[0] for t in events.Tags()["images"]}
