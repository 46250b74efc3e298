"""The preview's sheet: the network's own pixels, equal for equal seeds; mistakes are explained."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import dispatch
from pipeline.loading.__main__ import COMMANDS
from pipeline.loading.flags import PreviewFlags
from pipeline.loading.presets import MEAN, STD
from pipeline.loading.preview import choose_originals, collect
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards

PREVIEW = ("-m", "pipeline.loading", "preview", "--image-size", "64", "--samples", "3")


@pytest.mark.parametrize("augment", ["none", "basic", "strong", "trivial"])
def test_a_row_has_the_pixels_of_evaluation_then_augmented_versions(
    packed: Path, loader, augment: str
) -> None:
    split = open_shards(packed).split("train")
    samples = Samples(split)
    flags = PreviewFlags(augment=augment, image_size=64, versions=3, samples=4)  # type: ignore[arg-type]
    chosen = choose_originals(samples.labels, 4, seed=0)
    tiles = collect(samples, chosen, flags)
    assert len({int(samples.labels[row]) for row in chosen}) == 4
    images = next(iter(loader(phase="eval", batch_size=len(split)).epoch(0))).images
    for row, beside in zip(chosen, tiles, strict=True):
        original, *versions = (tile.pictures[0].astype(int) for tile in beside)
        expected = (images[row].permute(1, 2, 0).numpy() * STD + MEAN) * 255
        assert np.abs(original - expected.clip(0, 255)).max() <= 0.51
        apart = [np.abs(version - original).mean() for version in versions]
        assert len(apart) == 3
        # without augmentation the centre is half a pixel off, as 85 columns are not 64
        assert max(apart) < 4 if augment == "none" else max(apart) > 4


def test_originals_are_named_and_mixed_versions_show_the_shares_of_both_labels(
    packed: Path,
) -> None:
    split = open_shards(packed).split("train")
    samples, table = Samples(split), split.samples
    chosen = choose_originals(samples.labels, 4, seed=0)
    flags = PreviewFlags(image_size=64, versions=2, mixup=1.0, samples=4)
    diagnoses = set(table["dx"].iloc[list(chosen)])
    for row, beside in zip(chosen, collect(samples, chosen, flags), strict=True):
        assert beside[0].lines == (table["dx"][row], table["image_id"][row])
        for first, second in (tile.lines for tile in beside[1:]):
            share, dx = first.split()
            other_share, other_dx = second.removeprefix("+ ").split()
            assert float(share) + float(other_share) == pytest.approx(1, abs=0.011)
            assert dx == table["dx"][row] and other_dx in diagnoses


def test_versions_that_are_not_mixed_have_no_label(packed: Path) -> None:
    samples = Samples(open_shards(packed).split("train"))
    rows = collect(samples, (3, 5), PreviewFlags(image_size=64, versions=1, samples=2))
    assert [row[1].lines for row in rows] == [(), ()]


def test_the_command_draws_the_same_sheet_for_the_same_seed(
    packed: Path, tmp_path: Path, command
) -> None:
    flags = ("--shards", packed, "--augment", "strong", "--cutmix", "1", "--versions", "2")
    done = command(*PREVIEW, *flags, "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert "3 originals, 2 versions of each" in done.stdout
    dispatch(COMMANDS, [*map(str, (*PREVIEW[2:], *flags, "--out", tmp_path / "b.png"))])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").height > 3 * 128
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--samples", "0"), "--samples must be above 0"),
        (("--mixup", "0.4", "--samples", "1"), "--samples must be 2 or more"),
        (("--augment", "stong"), "strong"),
        (("--out", "/dev/null/a.png"), "/dev/null cannot be written to"),
        (("--split", "tset"), "there is no split"),
    ],
)
def test_mistakes_are_explained(packed: Path, capsys, flags: tuple, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        dispatch(COMMANDS, ["preview", "--shards", str(packed), *flags])
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_help_names_every_preset(command) -> None:
    done = command("-m", "pipeline.loading")
    assert done.returncode == 0 and "preview" in done.stdout
    done = command(*PREVIEW[:3], "--help")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for word in ("basic", "strong", "trivial", "--mixup", "--cutmix", "--image-size", "--backend"):
        assert word in said
