"""``--mix``: the drawn shares of an epoch, and the same bytes after any end in mid-epoch."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

KEPT = ("history.csv", "best/model.safetensors", "best/model.json", "best/training_samples.csv")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, synthetic_source, command) -> list[str]:
    """The flags of a training on two made-up sources that is drawn 1 to 3."""
    folder = tmp_path_factory.mktemp("mixed")
    clinic, shards = folder / "clinic", folder / "shards"
    new = ("-m", "pipeline.ham10000", "synthesize", "--out", clinic, "--images", "30")
    done = command(*new, "--seed", "7")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(clinic / "HAM10000_metadata.csv")  # its ids are those of the first source
    table["image_id"] = "own_" + table["image_id"]
    table.to_csv(clinic / "HAM10000_metadata.csv", index=False)
    for path in clinic.rglob("*.jpg"):
        path.rename(path.with_name(f"own_{path.name}"))
    build = ("-m", "pipeline.shards", "build", "--image-size", "32", "--samples-per-shard", "20")
    done = command(*build, f"--source=ham={synthetic_source}", f"--source=clinic={clinic}",
                   "--out", shards)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ["--shards", str(shards), "--mix", "ham=1", "clinic=3"]


@pytest.fixture(scope="module")
def flags(mixed, tiny) -> list[str]:
    return [*mixed, *tiny[2:], "--epochs", "2"]


def test_an_epoch_draws_the_sources_in_their_shares(mixed, flags, command, tmp_path):
    run, taken = tmp_path / "run", tmp_path / "taken"
    words = ("tests/training/taken.py", taken, "0", *flags, "--epochs", "1", "--run-dir", run)
    done = command(*words)
    assert done.returncode == 0, done.stderr
    images = re.findall(r"(?:own_)?ISIC_\d+", Path(f"{taken}.0").read_text())
    table = pd.read_csv(Path(mixed[1]) / "samples.csv", index_col="image_id")
    drawn = Counter(table.loc[images, "source"])
    many = int((table["split"] == "train").sum()) // 6 * 6  # an epoch ends with a whole batch
    assert sum(drawn.values()) == many
    assert abs(drawn["ham"] - many / 4) <= 2, drawn
    assert set(table.loc[images, "split"]) == {"train"}
    for source, count in drawn.items():
        times = Counter(name for name in images if table.loc[name, "source"] == source)
        assert count and max(times.values()) - min(times.values()) <= 2, (source, times)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_stopped_in_mid_epoch_it_ends_with_the_bytes_of_an_undisturbed_run(
    train, flags, tmp_path, ranks
):
    calm, run = [*flags, "--run-dir", tmp_path / "calm"], [*flags, "--run-dir", tmp_path / "run"]
    assert train(*calm, ranks=ranks).codes == [0] * ranks
    often = [*run, "--checkpoint-steps", "2"]
    last = ranks - 1
    outcome = train(*often, ranks=ranks, die=[last, "step", "7", "SIGKILL"])
    assert outcome.codes[last] == -9, outcome.text
    outcome = train(*often, ranks=ranks, die=[0, "step", "7", "SIGTERM"])
    assert outcome.codes == [143] * ranks, outcome.text
    # step 6's checkpoint is begun once step 4's is complete, and may have been cut off
    assert re.search(r"step-0000000([46]): epoch 0, batch \1", outcome.text), outcome.text
    outcome = train(*often, ranks=ranks)
    assert outcome.codes == [0] * ranks, outcome.text
    assert "step-00000007" in outcome.text
    for name in KEPT:
        found = [(tmp_path / which / name).read_bytes() for which in ("calm", "run")]
        assert found[0] == found[1], name
