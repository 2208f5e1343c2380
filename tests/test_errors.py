import errno
import pickle

import pytest

import wnseq
from wnseq.errors import FileFormatError, ShapeError, reading


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])  # the second as torch raises
def test_a_shape_error_is_caught_as_either(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="expected 2 axes"):
        raise ShapeError("expected 2 axes")


def test_a_shape_error_is_public_and_survives_pickling() -> None:
    assert wnseq.ShapeError is ShapeError
    assert str(pickle.loads(pickle.dumps(ShapeError("text")))) == "text"


def test_whatever_a_parser_raises_names_the_file() -> None:
    with (
        pytest.raises(
            FileFormatError, match=r"^a\.bin can't be read as a list: .* \(IndexError: pop from empty list\)\.$"
        ),
        reading("a.bin", "a list"),
    ):
        [].pop()
    with (
        pytest.raises(ValueError, match=r"\(RecursionError\)\. Get it again\.$"),
        reading("a.bin", "a tree", "Get it again."),
    ):
        raise RecursionError
    with pytest.raises(ValueError, match=r"\(OSError: \[Errno 22\] Invalid argument\)"), reading("a.bin", "a zip"):
        raise OSError(errno.EINVAL, "Invalid argument")  # a seek before the beginning


@pytest.mark.parametrize(
    "error", [FileFormatError("b: empty"), FileNotFoundError(errno.ENOENT, "no"), KeyboardInterrupt()]
)
def test_what_is_not_the_parsers_is_raised_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("a.bin", "a list"):
        raise error
    assert caught.value is error
