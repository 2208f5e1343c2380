"""How a model reads its text: what the data, a checkpoint and a program say about it."""

from types import SimpleNamespace

import pytest

from wnseq.training.reading import ReadsText, check_direction


@pytest.mark.parametrize("read", [True, False, None])
@pytest.mark.parametrize("given", [True, False, None])
def test_what_is_not_known_is_not_refused(read: bool | None, given: bool | None) -> None:
    if {read, given} == {True, False}:
        with pytest.raises(ValueError, match=rf"^a\.ckpt reads the other way: give --data\.backward {read}$"):
            check_direction(read, given, "a.ckpt")
    else:
        check_direction(read, given, "a.ckpt")


def test_a_training_decides_how_documents_are_read_and_an_evaluation_does_not() -> None:
    model, data = ReadsText(), SimpleNamespace(backward=True, documents=True)
    model._trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    model.read_as_trained({"data": {"backward": True, "documents": False}})
    assert (model.reads_backward, model.documents) == (True, None)
    model.read_as_data()
    assert model.documents
    data.documents, model.trainer.state.fn = False, "test"  # type: ignore[assignment]
    model.read_as_data()
    assert model.documents
    model.read_as_trained({"data": {"backward": True, "documents": False}})
    assert not model.documents
    with pytest.raises(ValueError, match=r"^the checkpoint reads the other way"):
        model.read_as_trained({"data": {"backward": False}})
    data.backward = False
    with pytest.raises(ValueError, match=r"^the model reads the other way"):
        model.read_as_data()
