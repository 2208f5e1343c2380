import pickle

import pytest

import wnseq
from wnseq.errors import ShapeError


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])  # the second as torch raises
def test_a_shape_error_is_caught_as_either(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="expected 2 axes"):
        raise ShapeError("expected 2 axes")


def test_a_shape_error_is_public_and_survives_pickling() -> None:
    assert wnseq.ShapeError is ShapeError
    assert str(pickle.loads(pickle.dumps(ShapeError("text")))) == "text"
