"""The registry of cases: few of them hold every pair of arguments, and those of the CPU loops are forced."""

import itertools

import pytest
from cases import FORMS, SWITCHES, all_pairs, class_cases, covering_cases, each, loop_cases, product, sequence_cases

from wnseq._recurrence.backend import forced_backends


@pytest.mark.parametrize(
    ("factors", "most"),
    [
        ({"a": "xy", "b": "xy"}, 4),
        ({"a": "xyz", "b": "xyz", "c": "xyz", "d": "xyz"}, 12),  # at least 9
        (SWITCHES, 6),
        ({"form": FORMS, **SWITCHES}, 10),
    ],
    ids=["two", "threes", "switches", "sequences"],
)
def test_few_rows_have_all_pairs(factors, most):
    rows = all_pairs(factors)
    for one, other in itertools.combinations(factors, 2):
        for pair in itertools.product(factors[one], factors[other]):
            assert pair in [(row[one], row[other]) for row in rows]
    assert len(rows) <= most
    assert rows == all_pairs(factors)
    assert rows[0] == {name: levels[0] for name, levels in factors.items()}


def test_the_rows_are_of_the_full_product():
    assert len(product({"form": FORMS, **SWITCHES})) == len({case.name for case in sequence_cases()}) == 80
    assert {case.name for case in covering_cases()} < {case.name for case in sequence_cases()}


def test_every_class_has_a_case():
    names = [case.module.__name__ for case in class_cases()]
    assert sorted(set(names)) == [
        "WNConv1d", "WNConv2d", "WNConv3d", "WNConvTranspose1d", "WNConvTranspose2d", "WNConvTranspose3d",
        "WNEmbedding", "WNGRU", "WNGRUCell", "WNLSTM", "WNLSTMCell", "WNLinear", "WNRNN", "WNRNNCell",
    ]  # fmt: skip
    assert names.count("WNLSTM") == 2


@each([*covering_cases()[:1], *loop_cases()[:1]])
def test_a_case_names_the_backend_of_its_test(case):
    assert forced_backends()[0] == case.backend == ("cpu_loop" if case.name.endswith("cpu loop") else "auto")
