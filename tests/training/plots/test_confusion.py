"""The figure of a confusion matrix."""

from pathlib import Path

import pytest
from figures import colors_in, size_of

from wnseq.training import plots


@pytest.mark.parametrize("number", [2, 31])
def test_a_confusion_matrix_is_shaded_by_the_shares_of_its_rows(number: int, tmp_path: Path) -> None:
    counts = [[9.0 if row == column else 0.0 for column in range(number)] for row in range(number)]
    names = [f"class {row} with a long name" for row in range(number)]
    figure = tmp_path / "confusion.png"
    assert plots.plot_confusion(counts, names, figure, title="texts")
    assert (8, 48, 107) in colors_in(figure) and size_of(figure)[1] == (512 if number == 2 else 1440)
    assert plots.plot_confusion([[0.0, 0.0], [1.0, 2.0]], names[:2], figure, title="a class without texts")
