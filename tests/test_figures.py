"""Plots, contact sheets and the cases on them."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline import figures
from pipeline.errors import DataError


def plot() -> Figure:
    figure, (axes,) = figures.blank(3, 2)
    axes.plot([0, 1], [0, 1], color=figures.BLUE)
    return figure


def test_equal_plots_give_equal_bytes_and_a_smaller_copy_looks_alike(tmp_path):
    figures.save(plot(), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == figures.png(plot())
    small = figures.smaller_png(data)
    assert len(small) < len(data)
    before, after = (
        np.asarray(Image.open(io.BytesIO(d)).convert("RGB"), float) for d in (data, small)
    )
    assert before.shape == after.shape == (220, 330, 3)
    assert np.abs(before - after).mean() < 2


def test_a_picture_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*a\.png"):
        figures.save(Image.new("RGB", (2, 2)), tmp_path / "file" / "a.png")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_contact_sheet_has_every_picture_at_its_size_in_reading_order(count):
    shades = [np.full((10, 20, 3), 20 * k, np.uint8) for k in range(count)]
    tiles = [figures.Tile((shade,), lines=("a line",)) for shade in shades]
    sheet = np.asarray(figures.contact_sheet(tiles, "Title", columns=2, size=(40, 30)))
    assert sheet.shape[1] >= 40 * min(count, 2)
    step = 30 + figures.LINE + 6 + figures.GAP
    for place in range(count):
        top = figures.TITLE + place // 2 * step
        left = figures.GAP + place % 2 * (40 + figures.GAP)
        tile = sheet[top : top + 30, left : left + 40]
        assert (tile == 20 * place).all()


def test_a_frame_surrounds_all_pictures_of_a_tile():
    grey = np.full((8, 8, 3), 128, np.uint8)
    tile = figures.Tile((grey, grey), frame="#ff0000")
    sheet = np.asarray(figures.contact_sheet([tile], "", size=(20, 20)))
    red = np.argwhere((sheet == (255, 0, 0)).all(axis=2))
    assert list(np.ptp(red, axis=0) + 1) == [20, 40]


def test_the_surest_mistakes_come_first_and_right_decisions_never():
    label = np.array([0, 1, 1, 0, 1, 0])
    probability = np.array([0.9, 0.39, 0.0, 0.4, 0.95, 0.1])
    # 0.9 is 5/6 of the way from 0.4 to 1; 0.39 is 1/40 of the way to 0; 0.4 itself is malignant
    assert figures.surest_mistakes(label, probability, 0.4, 10).tolist() == [2, 0, 1, 3]
    assert figures.surest_mistakes(label, probability, 0.4, 2).tolist() == [2, 0]
    assert figures.confidence(np.array([0.0, 0.4, 1.0]), 0.4).tolist() == [1, 0, 1]
    assert figures.confidence(np.array([0.0, 1.0]), 1.0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("malignant", "benign", "expected"),
    [(50, 50, (6, 6)), (2, 50, (2, 10)), (50, 3, (9, 3)), (2, 3, (2, 3))],
)
def test_half_of_the_drawn_cases_are_malignant_where_there_are_enough(malignant, benign, expected):
    label = np.random.default_rng(1).permutation(np.repeat([1, 0], [malignant, benign]))
    alone = np.arange(len(label))
    rows = figures.draw_cases(label, alone, 12, seed=0)
    assert len(set(rows)) == len(rows)
    assert (label[rows].sum(), (label[rows] == 0).sum()) == expected
    assert (rows == figures.draw_cases(label, alone, 12, seed=0)).all()


def test_photographs_of_one_lesion_are_drawn_once():
    lesions = np.repeat(np.arange(20), 3)
    rows = figures.draw_cases((lesions < 8).astype(int), lesions, 12, seed=0)
    assert len(set(lesions[rows])) == 12
    assert (lesions[rows] < 8).sum() == 6
    assert len(set(rows % 3)) == 3  # not always the first photograph


def test_a_line_of_text_does_not_run_into_the_next_tile():
    grey = np.full((8, 8, 3), 128, np.uint8)
    text = "a_very_long_name_of_a_photograph_that_somebody_took_" * 2
    tiles = [figures.Tile((grey,), lines=(text,)), figures.Tile((grey,), lines=("b",))]
    sheet = np.asarray(figures.contact_sheet(tiles, "", size=(160, 8)))
    gap = figures.GAP + 160  # between the first tile and the second
    assert (sheet[figures.TITLE + 8 :, gap : gap + figures.GAP] == 255).all()
    assert (sheet[figures.TITLE + 8 :, :gap] < 100).any()
    assert figures.fitted("short", figures.font(11), 160) == "short"
    face = figures.font(11)
    shown = figures.fitted(text, face, 160)
    assert shown[:10] == text[:10] and shown[-8:] == text[-8:] and face.getlength(shown) <= 160


def test_commands_draw_below_a_notebook_whose_backend_is_not_installed(command):
    words = "import pipeline.cli, pipeline.figures"
    done = command("-c", words, env={"MPLBACKEND": "module://not_installed.backend_inline"})
    assert done.returncode == 0, done.stderr
