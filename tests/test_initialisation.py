"""Every way of initialising a model gives torch's weights, or says what to do; the page has the table."""

import pytest
from compatibility import PAGE
from initialisation import BEFORE, IDIOMS, MODULES, SAME, TIMES, outcome, table, try_all


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("title", IDIOMS)
def test_no_initialisation_is_different_and_silent(title, time):
    outcomes = {outcome(IDIOMS[title], kind, time) for kind in MODULES}
    assert len(outcomes) == 1
    assert outcomes == {SAME} or time != BEFORE


def test_the_page_has_the_table():
    assert "\n".join(table(try_all())) in PAGE.read_text("utf-8"), "run python tests/compatibility.py"
