"""The script of mutants: each mistake can be made, and it tells one that tests notice from one they miss."""

from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, Mutant, main, survives


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_can_be_made_in_one_place(mutant: Mutant) -> None:
    assert (ROOT / "wnseq" / mutant.file).read_text("utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old


def test_what_a_test_misses_survives(tmp_path: Path) -> None:
    source = tmp_path / "wnseq" / "__init__.py"
    source.parent.mkdir()
    source.write_text("ONE = 1\nTWO = 2\n")
    (tmp_path / "test_one.py").write_text("import wnseq\n\n\ndef test_one():\n    assert wnseq.ONE == 1\n")
    noticed, missed, gone = (Mutant("", "__init__.py", old, "= 3", ("test_one.py",)) for old in ("= 1", "= 2", "= 4"))
    assert not survives(noticed, tmp_path)
    assert survives(missed, tmp_path)
    assert source.read_text() == "ONE = 1\nTWO = 2\n"
    with pytest.raises(SystemExit, match="has 0 times '= 4', not once"):
        survives(gone, tmp_path)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        SystemExit, match="no mutant's name begins with 'stm', 'x'; there are:\n  lstm loop: gradient"
    ) as e:
        main(["gru", "stm", "x"])
    assert all(mutant.name in str(e.value) for mutant in MUTANTS)
