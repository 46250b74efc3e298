"""One start of a training: RUN is its alone, and RUN/exit.json says how it ended."""

import json
from datetime import datetime

import pytest

from pipeline.owner import OWNER, sole_writer


def how(run) -> tuple[int, str]:
    found = json.loads((run / "exit.json").read_text())
    assert datetime.fromisoformat(found["time"]).tzinfo
    return found["code"], found["reason"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_in_use_is_refused_once_and_left_alone(train, tiny, tmp_path, ranks):
    with sole_writer(tmp_path, "--run-dir"):
        before = (tmp_path / OWNER).read_bytes()
        for resume in ("auto", "never"):
            outcome = train(*tiny, "--run-dir", tmp_path, "--resume", resume, ranks=ranks)
            assert outcome.codes == [2] * ranks
            assert outcome.text.count("error:") == 1 and "is in use by" in outcome.text
            assert "Traceback" not in outcome.text
        assert [p.name for p in tmp_path.iterdir()] == [OWNER]
        assert (tmp_path / OWNER).read_bytes() == before


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_end_of_every_start_is_noted(train, tiny, tmp_path, ranks):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 1, "--checkpoint-steps", 1]
    outcome = train(*flags, ranks=ranks, die=[ranks - 1, "step", "2", "SIGTERM"])
    assert outcome.codes == [143] * ranks and how(tmp_path) == (143, "SIGTERM: saved, then left")
    outcome = train(*flags, ranks=ranks, die=[ranks - 1, "step", "3"])
    assert outcome.codes[ranks - 1] == -9 and "Traceback" not in outcome.text
    if ranks == 1:
        assert not (tmp_path / "exit.json").exists()  # of an earlier start neither
    else:
        assert how(tmp_path)[0] != 0
    assert train(*flags, ranks=ranks).codes == [0] * ranks
    assert how(tmp_path) == (0, "done")
    assert not (tmp_path / OWNER).exists()
    outcome = train(*flags, "--lr", 5, ranks=ranks)
    assert outcome.codes == [2] * ranks and "Traceback" not in outcome.text
    assert outcome.text.count("error:") == 1
    code, reason = how(tmp_path)
    assert code == 2 and f"error: {reason}" in outcome.text and "--lr" in reason


@pytest.mark.parametrize(
    ("ranks", "hang", "stack"),
    [(1, ["sync", "*/step-00000003"], "write_checkpoint"), (2, ["step", "4"], "train_epoch")],
    ids=["dead storage", "hung rank"],
)
def test_what_hangs_is_ended_with_its_stacks_and_goes_on(train, tiny, tmp_path, ranks, hang, stack):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 1, "--checkpoint-steps", 1]
    die = [ranks - 1, *hang, "HANG"]
    outcome = train(*flags, "--watchdog-minutes", 0.1, ranks=ranks, die=die)
    assert 75 in outcome.codes and 0 not in outcome.codes, outcome.text
    for rank in range(ranks):
        assert f"rank {rank} hung: no step for 0.1 minutes" in outcome.text
    assert outcome.text.count("in train_epoch") == ranks and f"in {stack}" in outcome.text
    assert how(tmp_path)[0] == 75 and "hung" in how(tmp_path)[1]
    outcome = train(*flags, ranks=ranks)
    assert outcome.codes == [0] * ranks and "resuming from" in outcome.text
    assert how(tmp_path) == (0, "done")


def test_a_mistake_that_one_rank_meets_is_told_once(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--optimizer", "sgd", "--schedule", "constant"]
    outcome = train(*flags, "--ema-decay", 0, "--lr", "1e30", ranks=2)
    assert 2 in outcome.codes and 0 not in outcome.codes
    assert outcome.text.count("error:") == 1 and "Traceback" not in outcome.text, outcome.text
    assert how(tmp_path)[0] == 2 and "the loss is" in how(tmp_path)[1]


def test_batch_norm_cannot_be_shared_by_cpus(train, tiny, tmp_path):
    outcome = train(*tiny, "--run-dir", tmp_path, "--sync-batch-norm", ranks=2)
    assert 2 in outcome.codes and 0 not in outcome.codes
    assert outcome.text.count("error:") == 1 and "--sync-batch-norm needs GPUs" in outcome.text


def test_cuda_graphs_without_a_gpu_are_refused(train, tiny, tmp_path):
    outcome = train(*tiny, "--run-dir", tmp_path, "--compile", "--cuda-graphs")
    assert outcome.codes == [2]
    assert "--cuda-graphs needs --compile, one process on a GPU, no --accumulate" in outcome.text


def test_without_mixed_precision_float32_is_float32_on_a_gpu_too(command):
    code = (
        "import torch; from pipeline.training.processes import make_accelerator\n"
        "make_accelerator('no')\n"
        "print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)\n"
    )
    done = command("-c", code)
    assert done.stdout.split() == ["False", "False"], done.stderr
