"""What is stated of a dataset, and what is assumed of one that nobody described."""

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.layouts.data_card import FIELDS, card_of, read_card
from pipeline.ham10000.synthetic.dataset import plan


def written(tmp_path, text):
    path = tmp_path / "card.toml"
    path.write_text(text)
    return path


def test_a_card_is_read_as_it_stands(tmp_path):
    text = 'licence = "CC0"\nskin_tones = "Fitzpatrick IV to VI"\nsynthetic = false\n'
    expected = {"licence": "CC0", "skin_tones": "Fitzpatrick IV to VI", "synthetic": False}
    assert read_card(written(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('license = "CC0"', "unknown field 'license'.*meant is licence"),
        ("licence = 1", "licence is 1; expected a text"),
        ('synthetic = "no"', "synthetic is 'no'; expected true or false"),
        ("licence = CC0", "is no TOML file"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused_with_the_reason(tmp_path, text, reason):
    with pytest.raises(DataError, match=f"--data-card .*card.toml.*{reason}"):
        read_card(written(tmp_path, text))


def test_a_card_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.toml: No such file"):
        read_card(tmp_path / "none.toml")


def test_only_what_is_stated_or_known_is_said_of_data():
    ham10000 = {"source": {"kind": "ham10000"}}
    published = card_of(ham10000, ["HAM_0000118", "HAM_0007627"])
    assert published["licence"] == "CC BY-NC 4.0" and set(published) == set(FIELDS)
    made_up = card_of(ham10000, plan(60, seed=0)["lesion_id"])
    assert made_up["synthetic"] is True and "licence" not in made_up
    assert card_of({"source": {"kind": "images"}}, ["HAM_0000118"]) == {}
    own = {"name": "Ours"}
    assert card_of(ham10000 | {"data_card": own}, ["HAM_0000118"]) == own
