"""Writes docs/compatibility.md: what works with torch's RNNs, with torch's weight-normalised ones, and with wnseq's.

Each row is a function that tries one thing and raises if it does not work; its docstring is the row's title. Run
``python tests/compatibility.py`` from the root of the repository to write the page.
"""

import copy
import functools
import io
import json
import logging
import os
import pickle
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import initialisation
import matrix
import torch
from cases import tensors
from contenders import CELLS, CONTENDERS, SEQUENCES, TORCH, TORCH_WN, WNSEQ, NothingToTry, Subject, normalised
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.export import Dim
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import wnseq.onnx

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
LIMITS = (
    "A second derivative through a compiled graph: AOTAutograd has none "
    "([pytorch#91469](https://github.com/pytorch/pytorch/issues/91469)). It raises; uncompiled it works.",
    "ONNX has no LSTM with a projection ([icefall#621](https://github.com/k2-fsa/icefall/pull/621)) and no packed "
    "input ([LSTM](https://onnx.ai/onnx/operators/onnx__LSTM.html)). The export raises; `torch.export` takes both.",
    "`torch.jit.script` and `quantize_dynamic` know the layers of `torch.nn` by their class, and TorchScript is "
    "deprecated ([torch.jit](https://docs.pytorch.org/docs/stable/jit.html)): `remove_weight_norm` first.",
    "`quantize_dynamic` takes no recurrent layer without biases "
    "([rnn.py](https://github.com/pytorch/pytorch/blob/main/torch/ao/nn/quantized/dynamic/modules/rnn.py)), and torch "
    "has deprecated its quantised tensors ([pytorch#184982](https://github.com/pytorch/pytorch/issues/184982)).",
    "Lightning's own `fsdp` strategy wants CUDA "
    "([pytorch-lightning#21812](https://github.com/Lightning-AI/pytorch-lightning/issues/21812)); `fully_shard` does "
    "not.",
)
YES, NOTHING_TO_TRY = "yes", "—"
SHORT = 60  # characters of an error that a cell of the table holds
FIRST_GATES = {"LSTM": "input", "GRU": "reset", "RNN": "hidden"}


@dataclass(frozen=True)
class Row:
    """A thing to try: raises if it does not work; may return what the cell says instead of ``yes``."""

    section: str
    attempt: Callable[[Subject], str | None]
    kinds: tuple[str, ...]
    backend: str  # why it cannot work, with a link; empty where it does

    @property
    def title(self) -> str:
        return (self.attempt.__doc__ or "").removesuffix(".")


ROWS: list[Row] = []


def row(section: str, kinds: tuple[str, ...] = SEQUENCES + CELLS, backend: str = "") -> Callable[..., Any]:
    """Register the function below as a row."""

    def register(attempt: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
        ROWS.append(Row(section, attempt, kinds, backend))
        return attempt

    return register


def close(actual: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(tensors(actual), tensors(expected), **tolerance)


def require(holds: Any, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)


def total(result: Any) -> torch.Tensor:
    return sum(tensor.sin().sum() for tensor in tensors(result))


def gradients(module: nn.Module, result: Any) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(total(result), list(module.parameters()))


def save(thing: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return buffer


def detached(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


# Forward


@row("Forward")
def unbatched(subject: Subject) -> None:
    """an unbatched input."""
    x = subject.input()
    one = x[0] if subject.is_cell else x[:, 0]
    close(subject.make()(one), subject.make_plain()(one))


@row("Forward", SEQUENCES)
def batch_first(subject: Subject) -> None:
    """``batch_first``, bidirectional."""
    x = subject.input().transpose(0, 1)
    form = {"batch_first": True, "bidirectional": True}
    close(subject.make(**form)(x), subject.make_plain(**form)(x))


@row("Forward", SEQUENCES)
def packed(subject: Subject) -> None:
    """a packed sequence, unsorted."""
    x = pack_padded_sequence(subject.input(), [2, 4, 3], enforce_sorted=False)
    (output, state), (expected, expected_state) = subject.make()(x), subject.make_plain()(x)
    close([output.data, state], [expected.data, expected_state])


@row("Forward")
def initial_states(subject: Subject) -> None:
    """given initial states."""
    h = torch.randn((3, 6) if subject.is_cell else (2, 3, 6))
    states = (h, h.sin()) if subject.kind.startswith("LSTM") else h
    close(subject.make()(x := subject.input(), states), subject.make_plain()(x, states))


@row("Forward")
def bfloat16(subject: Subject) -> None:
    """``.to(torch.bfloat16)``."""
    x = subject.input().bfloat16()
    close(subject.make().to(torch.bfloat16)(x), subject.make_plain().to(torch.bfloat16)(x), rtol=0, atol=0.03)


@row("Forward")
def autocast(subject: Subject) -> None:
    """forward and backward under ``autocast`` in bfloat16."""
    module, x = subject.make(), subject.input()
    expected = gradients(module, module(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(x)
    for found, wanted in zip(gradients(module, result), expected, strict=True):
        require(found.dtype == torch.float32, "a gradient has another type than its parameter")
        require((found - wanted).norm() <= 0.05 * wanted.norm() + 1e-3, "a gradient is far off")


# Life cycle


@row("Life cycle")
def copied_before(subject: Subject) -> None:
    """``copy.deepcopy`` before a forward."""
    module, x = subject.make(), subject.input()
    close(copy.deepcopy(module)(x), module(x))


@row("Life cycle")
def copied_after(subject: Subject) -> None:
    """``copy.deepcopy`` after a forward."""
    module, x = subject.make(), subject.input()
    expected = module(x)
    close(copy.deepcopy(module)(x), expected)


@row("Life cycle")
def averaged(subject: Subject) -> None:
    """``AveragedModel`` after a forward."""
    module, x = subject.make(), subject.input()
    expected = module(x)
    average = AveragedModel(module)
    average.update_parameters(module)
    close(average(x), expected)


@row("Life cycle")
def pickled(subject: Subject) -> None:
    """``pickle``."""
    module, x = subject.make(), subject.input()
    close(pickle.loads(pickle.dumps(module))(x), module(x))


@row("Life cycle")
def saved_whole(subject: Subject) -> None:
    """``torch.save`` of the whole module, and ``torch.load`` of it with ``weights_only=False``."""
    module, x = subject.make(), subject.input()
    close(torch.load(save(module), weights_only=False)(x), module(x))


@row("Life cycle")
def saved_whole_safely(subject: Subject) -> None:
    """the same with ``weights_only=True`` and the classes registered."""
    module, x = subject.make(), subject.input()
    with torch.serialization.safe_globals([type(part) for part in module.modules()]):
        if subject.contender == WNSEQ:
            wnseq.add_safe_globals()
        close(torch.load(save(module), weights_only=True)(x), module(x))


@row("Life cycle")
def shared(subject: Subject) -> None:
    """``share_memory``."""
    module = subject.make().share_memory()
    require(all(parameter.is_shared() for parameter in module.parameters()), "a parameter is not shared")
    close(module(x := subject.input()), subject.make()(x))


@row("Life cycle")
def from_meta(subject: Subject) -> None:
    """from the meta device with ``to_empty``, or with ``load_state_dict(assign=True)``."""
    module, x = subject.make(), subject.input()
    emptied, assigned = subject.make(device="meta").to_empty(device="cpu"), subject.make(device="meta")
    emptied.load_state_dict(module.state_dict())
    assigned.load_state_dict(module.state_dict(), assign=True)
    close([emptied(x), assigned(x)], [module(x), module(x)])


# Checkpoints


@row("Checkpoints")
def own_form(subject: Subject) -> None:
    """a ``state_dict`` of its own, strictly."""
    module, other, x = subject.make(), subject.make(1), subject.input()
    other.load_state_dict(torch.load(save(module.state_dict()), weights_only=True))
    close(other(x), module(x))


@row("Checkpoints")
def plain_form(subject: Subject) -> None:
    """one of the plain ``torch.nn`` module, strictly."""
    module, plain, x = subject.make(), subject.make_plain(1), subject.input()
    module.load_state_dict(plain.state_dict())
    close(module(x), plain(x))


@row("Checkpoints")
def hooks_form(subject: Subject) -> None:
    """one of torch's old ``weight_norm`` (``_g``, ``_v``), strictly."""
    if subject.contender == TORCH:
        raise NothingToTry
    module, old, x = subject.make(), subject.make_plain(1), subject.input()
    for name in subject.weights:
        nn.utils.weight_norm(old, name)
    module.load_state_dict(old.state_dict())
    close(module(x), subject.make_plain(1)(x))


@row("Checkpoints")
def parametrizations_form(subject: Subject) -> None:
    """one of torch's ``parametrizations.weight_norm``, strictly."""
    if subject.contender == TORCH:
        raise NothingToTry
    module, other, x = subject.make(), subject.make_torch_wn(1), subject.input()
    module.load_state_dict(other.state_dict())
    close(module(x), other(x))


@row("Checkpoints")
def written_plain(subject: Subject) -> None:
    """a ``state_dict`` written in the plain form."""
    module, plain, x = subject.make(), subject.make_plain(1), subject.input()
    state = wnseq.state_dict_as(module, "plain") if subject.contender == WNSEQ else module.state_dict()
    plain.load_state_dict(state)
    close(plain(x), module(x))


@row("Checkpoints")
def taken_over(subject: Subject) -> None:
    """a model with torch's ``weight_norm`` taken over by ``adopt=True``, copied, and back into its class to the bit."""
    if subject.contender != WNSEQ:
        raise NothingToTry
    model, back, x = nn.Sequential(subject.make_torch_wn()), nn.Sequential(subject.make_torch_wn(1)), subject.input()
    ours = copy.deepcopy(wnseq.weight_normalize(model, adopt=True))
    close(ours(x), model(x))
    back.load_state_dict(wnseq.state_dict_as(ours, like=back))
    state = back.state_dict()
    require(all(torch.equal(state[key], value) for key, value in model.state_dict().items()), "a weight has changed")


# The weights


@row("Weights")
def zeros(subject: Subject) -> None:
    """a weight with a row of zeros: finite values and gradients."""
    plain, x = subject.make_plain(), subject.input()
    with torch.no_grad():
        getattr(plain, subject.weights[1])[2] = 0
    module = plain
    if subject.contender == WNSEQ:
        module = subject.make()
        module.load_state_dict(plain.state_dict())
    if subject.contender == TORCH_WN:
        module = normalised(copy.deepcopy(plain))
    result = module(x)
    require(all(each.isfinite().all() for each in tensors(result)), "the output is not finite")
    close(result, plain(x))
    require(all(each.isfinite().all() for each in gradients(module, result)), "a gradient is not finite")


@row("Weights")
def written_in_place(subject: Subject) -> None:
    """``init.orthogonal_`` on a weight takes effect, or raises."""
    module, name = subject.make(), subject.weights[1]
    try:
        nn.init.orthogonal_(getattr(module, name))
    except RuntimeError:
        if subject.contender == TORCH:
            raise
        return
    w = getattr(module, name)
    require(torch.allclose(w.mT @ w, torch.eye(6), atol=1e-5), "the write was lost")


@row("Weights")
def pruned(subject: Subject) -> None:
    """``prune`` on a weight takes effect, or raises and leaves the module as it was."""
    module, name, x = subject.make(), subject.weights[1], subject.input()
    keys, expected = [*module.state_dict()], module(x)
    try:
        prune.l1_unstructured(module, name, 0.5)
    except Exception:
        if subject.contender == TORCH:
            raise
        require([*module.state_dict()] == keys, "it raises and leaves the module changed")
        close(module(x), expected)
        return
    require((getattr(module, name) == 0).float().mean() >= 0.5, "nothing was pruned")
    module(x)


@row("Weights")
def one_gate(subject: Subject) -> None:
    """one gate's scale, viewed and written."""
    module, size, name = subject.make(), 6, subject.weights[1]
    v, g = subject.v_and_g(module, name)
    gate = FIRST_GATES[subject.kind.removesuffix("Cell")]
    with torch.no_grad():
        view = module.gate_g(gate) if subject.contender == WNSEQ else g[:size]
        view.fill_(2)
    norms = getattr(module, name).norm(dim=1)
    close(norms[:size], torch.full((size,), 2.0))
    close(norms[size:], v.norm(dim=1)[size:])


@row("Weights")
def folded(subject: Subject) -> None:
    """folding back to ``torch.nn``."""
    module, x = subject.make(), subject.input()
    expected = module(x)
    plain = fold(subject, module)
    require(type(plain) is getattr(nn, subject.kind), f"a {type(plain).__name__} is left")
    close(plain(x), expected)


@row("Weights")
def folded_and_pickled(subject: Subject) -> None:
    """``pickle`` of what was folded."""
    module, x = subject.make(), subject.input()
    close(pickle.loads(pickle.dumps(fold(subject, module)))(x), subject.make_plain()(x))


def fold(subject: Subject, module: nn.Module) -> nn.Module:
    if subject.contender == TORCH:
        raise NothingToTry
    if subject.contender == WNSEQ:
        return wnseq.remove_weight_norm(module)
    for name in subject.weights:
        parametrize.remove_parametrizations(module, name)
    return module


@row("Weights")
def compositions(subject: Subject) -> str:
    """compositions in one forward."""
    module = subject.make()
    calls = subject.counted(module)
    module(subject.input())
    require(calls, "no composition was seen")
    return f"{len(calls)} for {len(subject.weights)} weights"


@row("Weights")
def composed_once(subject: Subject) -> str:
    """compositions in three calls, with ``parametrize.cached()`` or ``bind()``."""
    module, x = subject.make(), subject.input()
    expected = module(x)
    calls = subject.counted(module)
    with parametrize.cached():
        call = module.bind() if subject.contender == WNSEQ else module
        results = [call(x) for _ in range(3)]
    close(results[2], expected)
    return f"{len(calls)} for {len(subject.weights)} weights"


@row("Weights")
def changed_meanwhile(subject: Subject) -> None:
    """a parameter changed between two such calls, but by a fused optimiser or by `.data`, is noticed."""
    module, x = subject.make(), subject.input()
    _, g = subject.v_and_g(module, subject.weights[0])
    with parametrize.cached():
        call = module.bind() if subject.contender == WNSEQ else module
        before = tensors(call(x))[0]
        with torch.no_grad():
            g.mul_(2)
        try:
            after = tensors(call(x))[0]
        except RuntimeError:
            return
    require(not torch.equal(before, after), "the old weights were used")


# Derivatives


def as_function(subject: Subject) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """Write a small module as a function of its input and parameters."""
    module = subject.make(sizes=(2, 2), dtype=torch.float64)
    x = torch.randn((1, 2) if subject.is_cell else (2, 1, 2), dtype=torch.float64)
    names = [*detached(module)]

    def call(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensors(functional_call(module, dict(zip(names, values, strict=True)), (x,))))

    return call, [leaf.clone().requires_grad_() for leaf in (x, *detached(module).values())]


@row("Derivatives")
def first_order(subject: Subject) -> None:
    """``gradcheck``."""
    call, leaves = as_function(subject)
    torch.autograd.gradcheck(call, leaves, fast_mode=True)


@row("Derivatives")
def second_order(subject: Subject) -> None:
    """``gradgradcheck``."""
    call, leaves = as_function(subject)
    torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@row("Derivatives")
def forward_mode(subject: Subject) -> None:
    """forward mode: ``torch.func.jvp``."""
    module, x = subject.make(), subject.input()
    _, tangent = jvp(lambda x: tensors(module(x))[0], (x,), (torch.ones_like(x),))
    require(tangent.isfinite().all(), "the tangent is not finite")


@row("Derivatives")
def checkpointed(subject: Subject) -> None:
    """``torch.utils.checkpoint``."""
    module, x = subject.make(), subject.input()
    close(gradients(module, checkpoint(module, x, use_reentrant=False)), gradients(module, module(x)))


@row("Derivatives")
def functional(subject: Subject) -> None:
    """``torch.func.grad`` through ``functional_call``."""
    module, x = subject.make(), subject.input()
    found = grad(lambda named: total(functional_call(module, named, (x,))))(detached(module))
    close([*found.values()], list(gradients(module, module(x))))


@row("Derivatives")
def functional_of_a_weight(subject: Subject) -> None:
    """a weight given to ``functional_call`` by name gets its gradient, or an error."""
    module, x, name = subject.make(), subject.input(), subject.weights[1]
    w = getattr(module, name).detach().clone().requires_grad_()
    try:
        result = functional_call(module, {name: w}, (x,))
    except Exception:
        if subject.contender == TORCH:
            raise
        return
    (gradient,) = torch.autograd.grad(total(result), w, allow_unused=True)
    require(gradient is not None, "the gradient was lost")


@row("Derivatives")
def each_sample(subject: Subject) -> None:
    """the gradient of each sample: ``vmap(grad)``."""
    module = subject.make()
    xs = torch.stack([subject.input() for _ in range(3)])
    found = vmap(grad(lambda named, x: total(functional_call(module, named, (x,)))), (None, 0))(detached(module), xs)
    for k, x in enumerate(xs):
        close([value[k] for value in found.values()], list(gradients(module, module(x))))


@row("Derivatives")
def ensemble(subject: Subject) -> None:
    """an ensemble: ``vmap`` of the forward over stacked parameters."""
    models, x = [subject.make(seed) for seed in range(3)], subject.input()
    parameters, _ = stack_module_state(models)
    found = vmap(lambda named: tuple(tensors(functional_call(models[0], named, (x,)))))(parameters)
    for k, model in enumerate(models):
        close([part[k] for part in found], list(tensors(model(x))))


# Graphs


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def dynamic(subject: Subject) -> tuple[dict[int, Any], ...]:
    """Let the axes of an input vary: time and batch, or the batch of a cell."""
    axes = ("batch",) if subject.is_cell else ("steps", "batch")
    return ({axis: Dim(name) for axis, name in enumerate(axes)},)


def longer(subject: Subject) -> torch.Tensor:
    """Draw an input of other lengths and batch size than the usual one."""
    return torch.randn((2, 5) if subject.is_cell else (7, 2, 5))


@row("Graphs")
def compiled_whole(subject: Subject) -> None:
    """``torch.compile(fullgraph=True)``, forward and backward."""
    module, x = subject.make(), subject.input()
    result, expected = compiled(module)(x), module(x)
    close(result, expected)
    close(list(gradients(module, result)), list(gradients(module, expected)))


@row("Graphs")
def compiled_once(subject: Subject) -> None:
    """the same, with one graph for every length and batch size."""
    module, x = subject.make(), longer(subject)
    run = compiled(module, dynamic=True)
    run(subject.input())
    with torch._dynamo.config.patch(error_on_recompile=True):
        close(run(x), module(x))


@row("Graphs", SEQUENCES)
def compiled_packed(subject: Subject) -> None:
    """the same, with a packed sequence."""
    module, x = subject.make(), pack_padded_sequence(subject.input(), [2, 4, 3], enforce_sorted=False)
    (output, state), (expected, expected_state) = compiled(module)(x), module(x)
    close([output.data, state], [expected.data, expected_state])


@row("Graphs")
def exported(subject: Subject) -> None:
    """``torch.export`` for every length and batch size, saved and loaded."""
    module, x = subject.make().eval(), longer(subject)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (subject.input(),), dynamic_shapes=dynamic(subject)), file)
    file.seek(0)
    close(torch.export.load(file).module()(x), module(x))


@row("Graphs")
def exported_to_onnx(subject: Subject) -> None:
    """ONNX for every length and batch size, right in onnxruntime."""
    import onnxruntime

    module, x, file = subject.make().eval(), longer(subject), io.BytesIO()
    table = wnseq.onnx.translations() if subject.contender == WNSEQ else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        module,
        (subject.input(),),
        dynamo=True,
        dynamic_shapes=dynamic(subject),
        custom_translation_table=table,
        verbose=False,
    ).save(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        close([torch.from_numpy(result) for result in results], tensors(module(x)), rtol=0, atol=1e-5)


@row("Graphs")
def traced(subject: Subject) -> None:
    """``torch.jit.trace``, for other lengths and batch sizes."""
    module, x = subject.make(), longer(subject)
    close(torch.jit.trace(module, (subject.input(),))(x), module(x))


@row("Graphs")
def scripted(subject: Subject) -> None:
    """``torch.jit.script``, after folding."""
    module, x = subject.make(), subject.input()
    close(torch.jit.script(nn.Sequential(without_norm(subject, module)))(x), module(x))


@row("Graphs", tuple(kind for kind in SEQUENCES + CELLS if kind != "RNN"))
def quantised(subject: Subject) -> None:
    """``quantize_dynamic``, after folding."""
    module, x = subject.make(), subject.input()
    kinds = {getattr(nn, subject.kind)}
    small = torch.ao.quantization.quantize_dynamic(nn.Sequential(without_norm(subject, module)), kinds)
    require(type(small[0]) not in kinds, "nothing was quantised")
    close(small(x), module(x), rtol=0, atol=0.05)


def without_norm(subject: Subject, module: nn.Module) -> nn.Module:
    """Remove the weight norm, each as its library has it; a plain module stays as it is."""
    if subject.contender == WNSEQ:
        return wnseq.remove_weight_norm(module)
    if subject.contender == TORCH_WN:
        for name in subject.weights:
            parametrize.remove_parametrizations(module, name)
    return module


# Several processes


def part_of_a_batch(subject: Subject, way: str, rank: int) -> None:
    """Go back through one half of a batch, the other half being another process's, and compare the gradients."""
    alone, shared = subject.make(dtype=torch.float64), subject.make(dtype=torch.float64)
    x = torch.randn((4, 5) if subject.is_cell else (4, 4, 5), dtype=torch.float64)
    half = slice(2 * rank, 2 * rank + 2)
    if way == "ddp":
        parallel = DistributedDataParallel(shared)
    else:
        parallel = fully_shard(shared, mesh=init_device_mesh("cpu", (2,)))
    (2 * total(parallel(x[half] if subject.is_cell else x[:, half]))).backward()  # both take the mean of two
    total(alone(x)).backward()
    for parameter, expected in zip(shared.parameters(), alone.parameters(), strict=True):
        gradient = parameter.grad.full_tensor() if way == "fsdp" else parameter.grad
        close(gradient, expected.grad)


def work(way: str, rank: int, folder: Path) -> None:
    """Try every module as one of two processes, and leave the outcomes in a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for who in CONTENDERS:
        for kind in SEQUENCES + CELLS:
            row = Row("", lambda subject: part_of_a_batch(subject, way, rank), (kind,), "")
            found[f"{who} {kind}"] = outcome(row, Subject(who, kind))
    (folder / f"{rank}.json").write_text(json.dumps(found), "utf-8")
    torch.distributed.barrier()  # one that leaves while the other still talks to it may abort
    torch.distributed.destroy_process_group()


@functools.cache
def outcomes_of_two(way: str) -> dict[str, str]:
    """Try every module in two processes, once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, way]
        pair = [subprocess.Popen([*command, str(rank), folder], stderr=subprocess.PIPE) for rank in range(2)]
        errors = [each.communicate(timeout=240)[1].decode() for each in pair]
        require(all(each.returncode == 0 for each in pair), "\n".join(errors))
        return json.loads((Path(folder) / "0.json").read_text("utf-8"))


@row("Two processes")
def data_parallel(subject: Subject) -> str:
    """gradients of a whole batch under ``DistributedDataParallel``."""
    return outcomes_of_two("ddp")[f"{subject.contender} {subject.kind}"]


@row("Two processes")
def sharded(subject: Subject) -> str:
    """the same under FSDP2, ``fully_shard``."""
    return outcomes_of_two("fsdp")[f"{subject.contender} {subject.kind}"]


# The page


def shorten(error: Exception, kind: str) -> str:
    """Return the type and the first words of an error, the same in every run and for every class."""
    words = re.sub(r"0x[0-9a-f]+", "0x…", " ".join(str(error).split())).replace("|", "/").replace("`", "'")
    words = words.partition(" Explanation")[0].replace("RNN, GRU, or LSTM", "a recurrent layer")
    words = re.sub(rf"\b(Parametrized)?{kind}\b", "the module", words).partition(". ")[0].removesuffix(".")
    if len(words) > SHORT:
        words = words[:SHORT].rpartition(" ")[0].rstrip(",:;") + " …"
    return f"`{type(error).__name__}: {words}`"


def outcome(row: Row, subject: Subject) -> str:
    """Try one row with one module."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return row.attempt(subject) or YES
    except NothingToTry:
        return NOTHING_TO_TRY
    except Exception as error:
        return shorten(error, subject.kind)


Outcomes = dict[str, dict[str, str]]  # contender -> kind -> outcome


def try_all(rows: list[Row] = ROWS) -> dict[str, Outcomes]:
    """Try rows with every module of every contender; return the outcomes by title, contender and kind."""
    return {
        row.title: {who: {kind: outcome(row, Subject(who, kind)) for kind in row.kinds} for who in CONTENDERS}
        for row in rows
    }


def summed_up(outcomes: dict[str, str]) -> str:
    """Write the outcomes of the modules of one contender as one cell of the table."""
    kinds: dict[str, list[str]] = {}
    for kind, text in outcomes.items():
        kinds.setdefault(text, []).append(kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    ordered = sorted(kinds.items(), key=lambda item: (item[0] == YES, -len(item[1])))
    return "; ".join(f"{listed(names)}: {text}" for text, names in ordered)


def listed(kinds: list[str]) -> str:
    """List modules, all three layers and all three cells by one word."""
    text = ", ".join(kinds)
    return text.replace(", ".join(SEQUENCES), "layers").replace(", ".join(CELLS), "cells")


def table_row(row: Row, outcomes: Outcomes) -> str:
    """Write one row of a table."""
    cells = [summed_up(outcomes[who]) for who in CONTENDERS]
    if row.backend:
        cells[-1] += f" ({row.backend})"
    return f"| {row.title.replace('``', '`')} | {' | '.join(cells)} |"


def made_with() -> str:
    """Name what the answers depend on: the fused kernels are those of a version and a processor."""
    return f"with torch {torch.__version__.partition('+')[0]} on a CPU ({platform.machine()})"


def page(found: dict[str, Outcomes]) -> str:
    """Write the page."""
    lines = [
        "# What works",
        "",
        f"Written by `python tests/compatibility.py` {made_with()}: each cell was tried, none was typed. "
        "A test holds the page to what the script writes.",
        "",
        "The modules are `LSTM`, `GRU` and `RNN` with two layers each (layers), and the three cells: those of "
        "`torch.nn`; the same with `torch.nn.utils.parametrizations.weight_norm` on every weight; and those of "
        "`wnseq`. A cell of the table says `yes` where all of them do it, names the modules where they differ, shows "
        f"the type and the first words of what was raised, and holds {NOTHING_TO_TRY} where there is nothing to try.",
    ]
    for section in dict.fromkeys(row.section for row in ROWS):
        lines += ["", f"## {section}", "", f"| | {' | '.join(CONTENDERS)} |", "| --- " * 4 + "|"]
        lines += [table_row(row, found[row.title]) for row in ROWS if row.section == section]
    lines += ["", *initialisation.table(initialisation.try_all())]
    lines += ["", *matrix.section(PAGE.read_text("utf-8"))]
    return "\n".join([*lines, "", "## Limits of the backends", "", *(f"- {limit}" for limit in LIMITS)]) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(try_all()), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:  # one of the two processes
        work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        os._exit(0)  # threads of torch.distributed that still run may abort a process that ends by the usual way
    else:
        main()
