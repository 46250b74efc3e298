import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from pipeline.errors import DataError
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.flags import SplitPolicy
from pipeline.shards.plan import part_of, place, plan_shards
from pipeline.shards.splits import crossing, crossing_pairs, find_groups, read_pairs


def table_of(lesions: list[tuple[str, str]]) -> pd.DataFrame:
    """A checked table from (lesion, dx) by image."""
    images = [f"ISIC_{n:05d}" for n in range(len(lesions))]
    return pd.DataFrame(
        {
            "image_id": images,
            "lesion_id": [lesion for lesion, _ in lesions],
            "dx": [dx for _, dx in lesions],
            "dx_type": "histo",
            "age": 50.0,
            "sex": "male",
            "localization": "back",
            "label": 0,
            "official_test": False,
        }
    )


def many(lesions: int = 700) -> pd.DataFrame:
    """Lesions of one to six images in all classes."""
    rows = [
        (f"HAM_{n:04d}", HAM10000.classes[n % 7])
        for n in range(lesions)
        for _ in range(1 + n % 13 // 8 * (n % 6))
    ]
    return table_of(rows)


def flood_fill(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> list[int]:
    """Connected components the slow and obvious way."""
    number = list(range(len(table)))
    image = list(table["image_id"])
    links = [(image.index(a), image.index(b)) for a, b in pairs]
    lesions = list(table["lesion_id"])
    links += [(i, j) for i in range(len(image)) for j in range(i) if lesions[i] == lesions[j]]
    changed = True
    while changed:
        changed = False
        for i, j in links:
            if number[i] != number[j]:
                number[i] = number[j] = min(number[i], number[j])
                changed = True
    return number


@given(st.lists(st.integers(0, 9), min_size=1, max_size=25), st.data())
@settings(max_examples=60, deadline=None)
def test_groups_are_connected_components_named_by_their_smallest_lesion(lesions, data):
    table = table_of([(f"L{n}", "nv") for n in lesions])
    one = st.sampled_from(list(table["image_id"]))
    pairs = data.draw(st.lists(st.tuples(one, one), max_size=8))
    groups = find_groups(table, pairs)
    assert adjusted_rand_score(groups, flood_fill(table, pairs)) == 1.0
    assert all(name == table.loc[groups == name, "lesion_id"].min() for name in set(groups))


def test_patients_keep_their_lesions_together_and_empty_ids_join_nothing():
    table = table_of([("a", "nv"), ("b", "nv"), ("c", "nv"), ("d", "nv")])
    table["patient_id"] = ["p", "p", "", ""]
    groups = find_groups(table, [], by=("lesion_id", "patient_id"))
    assert groups.tolist() == ["a", "a", "c", "d"]


@pytest.mark.parametrize("seed", range(5))
def test_no_lesion_crosses_splits_and_fractions_are_met_in_whole_and_by_class(seed):
    placed = place(many(), [], SplitPolicy(seed=seed))
    assert crossing(placed["lesion_id"], placed["split"]) == []
    share = placed["split"].value_counts(normalize=True)
    for split, asked in (("train", 0.65), ("val", 0.2), ("test", 0.15)):
        assert abs(share[split] - asked) < 6 / len(placed)
        by_class = (placed["split"] == split).groupby(placed["dx"]).mean()
        assert (by_class - asked).abs().max() < 0.06


def test_several_image_lesions_are_spread_like_single_ones():
    placed = place(many(2000), [], SplitPolicy())
    several = placed.groupby("group")["image_id"].transform("size") > 1
    shares = several.groupby(placed["split"]).mean()
    assert shares.max() - shares.min() < 0.02


def test_seed_decides_and_row_order_does_not():
    table = many(200)
    first = place(table, [], SplitPolicy(seed=3)).set_index("image_id")["split"]
    mixed = place(table.sample(frac=1, random_state=1), [], SplitPolicy(seed=3))
    assert first.to_dict() == mixed.set_index("image_id")["split"].to_dict()
    assert (
        first.to_dict()
        != place(table, [], SplitPolicy(seed=4)).set_index("image_id")["split"].to_dict()
    )


def test_pairs_keep_two_lesion_ids_in_one_split():
    table = many(300)
    images = list(table["image_id"])
    pairs = list(zip(images[::3], images[1::3], strict=False))
    assert crossing_pairs(images, place(table, [], SplitPolicy())["split"], pairs)
    placed = place(table, pairs, SplitPolicy())
    assert crossing_pairs(images, placed["split"], pairs) == []
    assert crossing(placed["group"], placed["split"]) == []


def test_split_by_image_leaks_but_keeps_the_groups_known():
    placed = place(many(), [], SplitPolicy(split_by="image"))
    assert set(placed["split"]) == {"train", "val"}
    assert len(crossing(placed["group"], placed["split"])) > 10
    assert abs((placed["split"] == "val").mean() - 0.2) < 0.01


def test_folds_are_lesion_disjoint_equal_and_cover_all_but_test():
    placed = place(many(), [], SplitPolicy(folds=5))
    assert crossing(placed["group"], part_of(placed)) == []
    sizes = placed[placed["split"] == "train"]["fold"].value_counts()
    assert sorted(sizes.index) == [0, 1, 2, 3, 4] and sizes.max() - sizes.min() <= 12
    assert set(placed.loc[placed["split"] == "test", "fold"]) == {-1}
    assert abs((placed["split"] == "test").mean() - 0.15) < 0.01


def test_images_of_an_official_test_lesion_are_left_out_of_training():
    table = many(100)
    table.loc[table.index[-20:], "official_test"] = True
    pair = (table["image_id"].iloc[0], table["image_id"].iloc[-1])
    placed = place(table, [pair], SplitPolicy(test_fraction=0))
    lesion = table["lesion_id"].iloc[0]
    assert set(placed.loc[placed["lesion_id"] == lesion, "split"]) == {"left_out"}
    used = placed[placed["split"] != "left_out"]
    assert (used["official_test"] == (used["split"] == "test")).all()
    assert crossing(used["group"], used["split"]) == []


def test_shards_hold_each_image_once_shuffled_in_even_sizes_on_fold_borders():
    placed = place(many(300), [], SplitPolicy(folds=3))
    plans = plan_shards(placed, "n", 20, seed=0)
    packed = [row["image_id"] for plan in plans for row in plan.rows]
    assert sorted(packed) == sorted(placed["image_id"]) and packed != sorted(packed)
    fold = placed.set_index("image_id")["fold"]
    for plan in plans:
        assert {fold[row["image_id"]] for row in plan.rows} == {
            -1 if plan.fold is None else plan.fold
        }
        assert 17 <= len(plan.rows) <= 20
    assert len({plan.path for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    "wrong",
    [
        {"val_fraction": -0.1},
        {"val_fraction": 0.6, "test_fraction": 0.4},
        {"folds": 1},
        {"folds": -2},
    ],
)
def test_impossible_policies_are_refused(wrong):
    with pytest.raises(DataError):
        SplitPolicy(**wrong)


def test_too_few_images_for_the_splits_are_refused():
    with pytest.raises(DataError, match="too few"):
        place(table_of([("a", "nv"), ("a", "nv")]), [], SplitPolicy())


def test_unusable_pairs_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    with pytest.raises(DataError, match="no such file"):
        read_pairs(path, {"a"})
    path.write_text("image_id_a,image_id_b\na,b\n")
    with pytest.raises(DataError, match="lacks the column score"):
        read_pairs(path, {"a", "b"})
    path.write_text("image_id_a,image_id_b,score\na,z,1\n")
    with pytest.raises(DataError, match="line 2: the source has no image 'z'"):
        read_pairs(path, {"a", "b"})


@pytest.mark.realdata
def test_real_known_pairs_never_cross_splits_or_folds(ham10000):
    from pipeline.ham10000.source import open_source

    table = open_source(ham10000).table
    published = pd.read_csv(ham10000 / "known_duplicates.csv").query("kind == 'same_lesion'")
    pairs = list(zip(published["image_id_a"], published["image_id_b"], strict=True))
    assert sorted(SAME_LESION_PAIRS) == sorted(pairs) and len(pairs) == 18
    for policy in (SplitPolicy(), SplitPolicy(seed=1), SplitPolicy(folds=5)):
        placed = place(table, SAME_LESION_PAIRS, policy)
        assert crossing_pairs(placed["image_id"], part_of(placed), pairs) == []
        assert crossing(placed["lesion_id"], part_of(placed)) == []
    alone = place(table, [], SplitPolicy())
    assert crossing_pairs(alone["image_id"], alone["split"], pairs)  # ids alone would have leaked
