"""Data parallelism: two processes, each with half of a batch, do what one process does with the whole of it.

One pair of processes does every check of the suite that needs no Trainer, since a pair takes seconds to start.
"""

import copy
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist
from cases import SEQUENCE, Case, cell_cases, covering_cases, tensors
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import wnseq

CASES = {case.name: case for case in covering_cases() + cell_cases()}
RUNS = [
    (way, form, case.name)
    for way in ("ddp", "fsdp")
    for case in CASES.values()
    for form in ("plain", *([] if case.is_cell else ["packed"]))
]
LENGTHS = (4, 2, 3, 1)  # of the whole batch


def module(case: Case) -> nn.Module:
    """Make a module whose g vectors two processes cannot halve: of 5 units, 5, 15 or 20 rows."""
    torch.manual_seed(0)
    return case.module(3, 5, **case.kwargs, dtype=torch.float64)


def batch(case: Case, packed: bool, rows: slice) -> Any:
    """Draw a batch of four, and take some rows of it."""
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # (T, N, I)
    if case.is_cell:
        return x[0, rows]
    if not packed:
        return case.lay_out(x[:, rows])
    return pack_padded_sequence(x[:, rows], torch.tensor(LENGTHS)[rows], enforce_sorted=False)


def loss(output: Any) -> Tensor:
    """Sum the squares of all outputs and states, so that two halves add up to the whole."""
    parts = [output[0].data, *tensors(output[1])] if isinstance(output[0], PackedSequence) else tensors(output)
    return sum(part.pow(2).sum() for part in parts)


def whole(model: nn.Module, name: str) -> Tensor:
    parameter = model.get_parameter(name)
    gradient = parameter.grad
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def check_gradients(rank: int, way: str, form: str, name: str) -> None:
    case, packed = CASES[name], form == "packed"
    alone, shared = module(case), module(case)
    loss(alone(batch(case, packed, slice(0, 4)))).backward()
    if way == "ddp":
        parallel = DistributedDataParallel(shared)
    else:
        parallel = fully_shard(shared, mesh=init_device_mesh("cpu", (2,)))
    (2 * loss(parallel(batch(case, packed, slice(2 * rank, 2 * rank + 2))))).backward()  # they take the mean
    for key, parameter in alone.named_parameters():
        torch.testing.assert_close(whole(shared, key), parameter.grad, rtol=1e-9, atol=1e-9)


def check_state_dict(rank: int) -> None:
    """The full state dict has names, shapes and values of the single process's, and goes back into a sharded module."""
    case = Case("gru", *SEQUENCE["gru"], kwargs={"num_layers": 2, "bidirectional": True})
    alone, sharded = module(case), fully_shard(module(case), mesh=init_device_mesh("cpu", (2,)))
    sizes = [None, None]
    dist.all_gather_object(sizes, len(sharded.weight_hh_l0_g.to_local()))
    assert sizes == [8, 7]
    everything = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(sharded, options=everything)
    expected = alone.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    set_model_state_dict(sharded, {key: value + 1 for key, value in expected.items()}, options=everything)
    state = get_model_state_dict(sharded, options=everything)
    assert all(torch.equal(state[key], expected[key] + 1) for key in expected)


def check_gate_g(rank: int) -> None:
    for made, name, rows in (
        (wnseq.WNLSTM(3, 5), "weight_hh_l0", "5:10"),
        (wnseq.WNLSTMCell(3, 5), "weight_hh", "5:10"),
    ):
        expected = made.gate_g("forget").detach().clone()
        fully_shard(made, mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(RuntimeError, match=rf"{name}_g is sharded.*module.{name}_g.full_tensor\(\)\[{rows}\]"):
            made.gate_g("forget")
        assert torch.equal(made.get_parameter(f"{name}_g").full_tensor()[5:10], expected)


class Decoder(nn.Module):
    """Composes the weights once, for a loop inside its forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = wnseq.WNLSTMCell(3, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Any:
        step, state = self.cell.bind(), None
        for x_t in x:
            state = step(x_t, state)
        return state


def check_bind(rank: int) -> None:
    """A module that binds in its forward is sharded as one; a cell that is sharded by itself registers ``bind``."""
    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone, parallel, as_one, apart, registered = (Decoder() for _ in range(5))
    loss(alone(x)).backward()
    fully_shard(as_one, mesh=mesh)
    for each in (apart, registered):
        fully_shard(each.cell, mesh=mesh, reshard_after_forward=each is apart)
        fully_shard(each, mesh=mesh)
    register_fsdp_forward_method(registered.cell, "bind")
    for each in (DistributedDataParallel(parallel), as_one, registered):
        (2 * loss(each(x[:, 2 * rank : 2 * rank + 2]))).backward()
    for each in (parallel, as_one, registered):
        for key, parameter in alone.named_parameters():
            torch.testing.assert_close(whole(each, key), parameter.grad, rtol=1e-9, atol=1e-9)
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        apart(x)


def check_batch_norm(rank: int) -> None:
    """Synchronised means of two parts of a batch are those of the whole, and so are the gradients."""
    torch.manual_seed(0)
    norm = wnseq.MeanOnlyBatchNorm1d(4, momentum=None, sync=True)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh()).double()
    whole = copy.deepcopy(model)
    whole[1].sync = False
    parallel = DistributedDataParallel(model)
    for cut in (3, 4, 8):  # the last time the second process has nothing
        x = torch.randn(8, 3, dtype=torch.float64)
        part = slice(0, cut) if rank == 0 else slice(cut, None)
        result, expected = parallel(x[part]), whole(x)
        torch.testing.assert_close(result, expected[part])
        model.zero_grad()
        whole.zero_grad()
        (2 * result.pow(3).sum()).backward()  # twice, since DDP takes the mean over both processes
        expected.pow(3).sum().backward()
        for a, b in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(dict(model.named_buffers()), dict(whole.named_buffers()))
    assert norm.num_batches_tracked == 3
    empty = wnseq.MeanOnlyBatchNorm1d(4, sync=True)
    empty(torch.ones(0, 4))
    assert not empty.running_mean.any() and empty.num_batches_tracked == 0
    assert torch.equal(empty.eval()(torch.ones(2 + rank, 4)), torch.ones(2 + rank, 4))  # no process waits here


CHECKS = {"state_dict": check_state_dict, "gate_g": check_gate_g, "bind": check_bind, "batch_norm": check_batch_norm}


def work(rank: int, folder: Path) -> None:
    """Do every check in this one pair of processes, and leave the traceback of each, or ``passed``, in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    outcomes = {}
    for what in (*RUNS, *CHECKS):
        try:
            CHECKS[what](rank) if what in CHECKS else check_gradients(rank, *what)
            outcomes[what] = "passed"
        except Exception as error:
            outcomes[what] = "".join(traceback.format_exception(error))
    torch.save(outcomes, folder / f"{rank}.pt")
    dist.barrier()  # one that leaves while the other still talks to it may abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, str]]:
    folder = tmp_path_factory.mktemp("two")
    with (folder / "said.txt").open("w+") as said:
        commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(2)]
        processes = [forked.Popen(command, stdout=said, stderr=forked.STDOUT) for command in commands]
        codes = [process.wait(200) for process in processes]
    assert codes == [0, 0], (folder / "said.txt").read_text()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_gradients_are_those_of_the_whole_batch(outcomes: list[dict[Any, str]], run: tuple[str, str, str]) -> None:
    assert [each[run] for each in outcomes] == ["passed", "passed"]


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(outcomes: list[dict[Any, str]], check: str) -> None:
    assert [each[check] for each in outcomes] == ["passed", "passed"]


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
