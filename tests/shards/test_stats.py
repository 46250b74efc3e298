import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.dataset import open_shards
from pipeline.shards.flags import StatsFlags
from pipeline.shards.stats import run, tabulate
from pipeline.shards.verify import verify


def test_stats_count_what_the_table_says(shared_shards):
    samples = open_shards(shared_shards).samples
    tables = tabulate(samples, HAM10000)
    for title, column in {"diagnosis": "dx", "sex": "sex", "site": "localization"}.items():
        for split, part in samples.groupby("split"):
            counts = part[column].value_counts().to_dict()
            shown = tables[title][split]
            assert shown[shown > 0].to_dict() == counts
    assert list(tables["diagnosis"].index) == list(HAM10000.classes)
    bands = tables["age"].sum(axis=1)
    assert bands["unknown"] == samples["age"].isna().sum()
    assert bands["30-39"] == samples["age"].between(30, 39.9).sum()
    assert bands.sum() == len(samples)
    assert tables["images and lesions"].loc["images"].sum() == 60


@pytest.mark.parametrize("folds", [0, 3])
def test_stats_are_printed_and_drawn(shared_source, build, capsys, folds):
    root = build(shared_source, folds=folds)
    run(StatsFlags(root))
    assert "images and lesions" in capsys.readouterr().out
    picture = np.asarray(Image.open(root / "stats.png").convert("RGB"))
    assert picture.shape[0] > 600 and picture.std() > 10
    assert not verify(root, progress=False).problems
    with pytest.raises(DataError, match="cannot be written to"):
        run(StatsFlags(root, out=root / "manifest.json" / "x.png"))
