"""The state that a model carries from batch to batch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import wnseq
from wnseq.training.carried_state import CarriedStates


def stub(rank: int = 0, ranks: int = 1, stage: str = "fit", said: list[str] | None = None) -> Any:
    strategy = SimpleNamespace(broadcast=lambda value, src: [part + 10 * src for part in value])
    trainer = SimpleNamespace(global_rank=rank, world_size=ranks, interrupted=False, strategy=strategy)
    trainer.state = SimpleNamespace(fn=stage)
    said = [] if said is None else said
    return SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, print=said.append, trainer=trainer)


def batch(streams: int, reset_state: bool = False) -> Any:
    return SimpleNamespace(inputs=torch.zeros(5, streams), reset_state=reset_state)


@pytest.mark.parametrize("pair", [False, True])
def test_a_state_is_carried_without_its_graph_and_only_to_as_many_streams(pair: bool) -> None:
    states, said = CarriedStates(), []
    h = torch.ones(1, 3, 2, requires_grad=True) * 2
    states.carry("val", (h, h + 1) if pair else h)
    model = stub(said=said)
    found = states.carried(model, "val", batch(3))
    parts = found if isinstance(found, tuple) else (found,)
    assert len(parts) == 1 + pair
    assert all(isinstance(part, Tensor) and not part.requires_grad for part in parts)
    assert torch.equal(parts[0], h) and states.carried(model, "train", batch(3)) is None
    assert states.carried(model, "val", batch(3, reset_state=True)) is None
    assert not said and states.carried(model, "val", batch(4)) is None
    assert said == ["the state carried so far has 3 streams, this batch 4: starting from zero"]


@pytest.mark.parametrize("pair", [False, True])
def test_a_checkpoint_has_the_streams_of_all_processes_and_each_takes_its_own(pair: bool) -> None:
    states = CarriedStates()
    assert states.gather(stub().trainer) == {"carried_state": []}
    h = torch.arange(4.0).reshape(1, 2, 2)
    states.carry("train", (h, h + 1) if pair else h)
    states.carry("teacher", h + 5)
    saved = states.gather(stub(ranks=2).trainer)
    assert saved["carried_state"] is not None and saved["carried_state"][0].shape == (1, 4, 2)
    for rank in (0, 1):
        own = CarriedStates()
        own.restore(stub(rank, 2), saved)
        found = own["train"]
        assert torch.equal(found[0] if isinstance(found, tuple) else found, h + 10 * rank)
        assert torch.equal(own["teacher"], h + 5 + 10 * rank)


def test_a_state_is_restored_in_a_fit_alone() -> None:
    for states, stage, saved in ((CarriedStates(), "test", [torch.ones(1, 1, 1)]), (CarriedStates(), "fit", [])):
        states.restore(stub(stage=stage), {"carried_state": saved, "teacher_state": saved})
        assert not states
    said: list[str] = []
    states = CarriedStates(train=torch.ones(1, 1, 1), teacher=torch.ones(1, 1, 1))  # a tuner's
    states.restore(stub(said=said), {"carried_state": None})
    assert not states and said == [
        "the checkpoint was saved as several processes were stopped: the carried state starts from zero"
    ]


def test_the_state_of_a_teacher_has_its_own_precision() -> None:
    states, model = CarriedStates(), stub()
    model.dtype = torch.float64
    states.restore(model, {"carried_state": [torch.ones(1, 3, 2)], "teacher_state": [torch.ones(1, 3, 2)]})
    teacher, own = states.carried(model, "teacher", batch(3), torch.float32), states.carried(model, "train", batch(3))
    assert isinstance(teacher, Tensor) and teacher.dtype == torch.float32
    assert isinstance(own, Tensor) and own.dtype == torch.float64


@pytest.mark.parametrize("before", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("now", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_restored_state_suits_the_precision_of_the_resumed_run(
    before: torch.dtype, now: torch.dtype, autocast: bool
) -> None:
    states, model = CarriedStates(), stub()
    model.dtype = torch.float32 if autocast else now
    states.restore(model, {"carried_state": [torch.ones(1, 3, 2, dtype=before)] * 2})
    layer = wnseq.WNLSTM(4, 2).to(model.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = states.carried(model, "train", batch(3))
        _, after = layer(torch.ones(5, 3, 4, dtype=model.dtype), found)
        if before == now and not autocast:
            assert isinstance(found, tuple) and found[0].dtype == before
        states.carry("train", after)
        again = states.carried(model, "train", batch(3))
    assert isinstance(again, tuple) and again[0].dtype == after[0].dtype  # as the layer left it
