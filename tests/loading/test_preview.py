"""The contact sheet: the network's own pixels, the same for the same seed, mistakes explained."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import guard
from pipeline.loading.__main__ import main as commands
from pipeline.loading.presets import MEAN, STD
from pipeline.loading.preview import PreviewOptions, choose, collect, main
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards

PREVIEW = ("-m", "pipeline.loading", "preview", "--image-size", "64", "--samples", "3")


@pytest.mark.parametrize("augment", ["none", "basic", "strong", "trivial"])
def test_a_row_is_what_evaluation_sees_and_versions_of_it(
    packed: Path, loader, augment: str
) -> None:
    split = open_shards(packed).split("train")
    samples = Samples(split)
    options = PreviewOptions(augment=augment, image_size=64, versions=3, samples=4)  # type: ignore[arg-type]
    chosen = choose(samples.labels, 4, seed=0)
    rows = collect(samples, chosen, options)
    assert len({int(samples.labels[number]) for number in chosen}) == 4
    images = next(iter(loader(phase="eval", batch_size=len(split)).epoch(0))).images
    for number, row in zip(chosen, rows, strict=True):
        original, *versions = (version.picture.astype(int) for version in row)
        expected = (images[number].permute(1, 2, 0).numpy() * STD + MEAN) * 255
        assert np.abs(original - expected.clip(0, 255)).max() <= 0.51
        apart = [np.abs(version - original).mean() for version in versions]
        assert len(apart) == 3
        # without augmentation the centre is half a pixel off, as 85 columns are not 64
        assert max(apart) < 4 if augment == "none" else max(apart) > 4


def test_mixed_versions_say_what_was_mixed(packed: Path) -> None:
    samples = Samples(open_shards(packed).split("train"))
    chosen = choose(samples.labels, 4, seed=0)
    options = PreviewOptions(image_size=64, versions=2, mixup=1.0, samples=4)
    rows = collect(samples, chosen, options)
    assert all(row[0].mixed == "" for row in rows)
    shares = [float(version.mixed.split()[0]) for row in rows for version in row[1:]]
    assert all(0 <= share <= 1 for share in shares)


def test_the_command_draws_the_same_sheet_for_the_same_seed(
    packed: Path, tmp_path: Path, command
) -> None:
    flags = ("--shards", packed, "--augment", "strong", "--cutmix", "1", "--versions", "2")
    done = command(*PREVIEW, *flags, "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert "3 originals, 2 versions of each" in done.stdout
    main([*map(str, (*PREVIEW[3:], *flags, "--out", tmp_path / "b.png"))])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").height > 3 * 128
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--samples", "0"), "--samples must be 1 or more"),
        (("--mixup", "0.4", "--samples", "1"), "--samples must be 2 or more"),
        (("--augment", "stong"), "strong"),
        (("--out", "no/such/folder/a.png"), "cannot be written"),
        (("--split", "tset"), "there is no split"),
    ],
)
def test_mistakes_are_explained(packed: Path, capsys, flags: tuple, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        guard(lambda: main(["--shards", str(packed), *flags]))
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_help_names_every_preset(capsys) -> None:
    commands([])
    assert "preview" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        commands(["preview", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for word in ("basic", "strong", "trivial", "--mixup", "--cutmix", "--image-size", "--backend"):
        assert word in said
