"""Every way of initialising a model gives torch's weights, or says what to do; the page has the table."""

from compatibility import PAGE
from initialisation import BEFORE, SAME, table, try_all


def test_no_initialisation_is_different_and_silent_and_the_page_has_the_table():
    found = try_all()
    for title, times in found.items():
        for time, by_kind in times.items():
            outcomes = set(by_kind.values())
            assert len(outcomes) == 1, (title, time, by_kind)
            assert outcomes == {SAME} or time != BEFORE, title
    assert "\n".join(table(found)) in PAGE.read_text("utf-8"), "run python tests/compatibility.py"
