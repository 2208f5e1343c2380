"""Which back end runs a call of each kind, and that all of them compute the same."""

import pytest
import torch
from cases import tensors
from torch.func import grad, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence

from wnseq import WNGRU, WNLSTM, WNRNN
from wnseq._recurrence.backend import Backend, backend
from wnseq._recurrence.call import make_call
from wnseq._recurrence.cpu_gru import CPU_GRU
from wnseq._recurrence.cpu_lstm import CPU_LSTM
from wnseq._recurrence.cpu_lstm_float import CPU_LSTM_FLOAT
from wnseq._recurrence.cpu_rnn import CPU_RNN
from wnseq._recurrence.custom_ops import CUSTOM_OPS
from wnseq._recurrence.dispatch import BACKENDS, select_backend
from wnseq._recurrence.matmul import onednn_supports
from wnseq._recurrence.reset_steps import RESET_STEPS
from wnseq._recurrence.single_step import SINGLE_STEP
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq._recurrence.unrolled import UNROLLED

MODULES = {"rnn": WNRNN, "lstm": WNLSTM, "gru": WNGRU}
HAS_BF16 = onednn_supports(torch.zeros(1, dtype=torch.bfloat16))
pytestmark = pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN")


def label(part):
    """Return the id of a parameter; that of a back end would hold its address, which differs between processes."""
    return type(part).__name__ if isinstance(part, Backend) else str(part)


each_kind = pytest.mark.parametrize("kind", MODULES)


def call_of(module, x):
    flat = [parameter for name, parameter in module.named_parameters() if not name.endswith("_g")]
    return make_call(module, flat, x, None)


def chosen(kind, steps, batch, size, *, forced="auto", autocast=False, training=True, packed=False):
    x = torch.zeros(steps, batch, 8)
    x = pack_padded_sequence(x, [steps] * batch) if packed else x
    with backend(forced), torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(training):
        return select_backend(call_of(MODULES[kind](8, size), x))


@pytest.mark.parametrize(
    ("kind", "size", "how", "expected"),
    [
        ("rnn", (35, 20, 512), {}, CPU_RNN),
        ("rnn", (35, 20, 512), {"training": False}, TORCH_KERNEL),
        ("rnn", (2, 2, 16), {}, TORCH_KERNEL),
        ("rnn", (1, 1, 512), {}, TORCH_KERNEL),
        ("rnn", (2, 2, 16), {"forced": "cpu_loop"}, CPU_RNN),
        ("lstm", (35, 20, 640), {}, TORCH_KERNEL),
        ("lstm", (35, 20, 640), {"forced": "cpu_loop"}, CPU_LSTM_FLOAT),
        ("lstm", (1, 1, 512), {}, SINGLE_STEP),
        ("lstm", (1, 33, 16), {}, TORCH_KERNEL),
        ("lstm", (1, 33, 16), {"training": False}, SINGLE_STEP),
        ("lstm", (1, 1, 512), {"packed": True}, TORCH_KERNEL),
        ("lstm", (1, 1, 512), {"forced": "torch"}, TORCH_KERNEL),
        ("gru", (35, 20, 64), {}, CPU_GRU),
        ("gru", (35, 20, 64), {"packed": True}, CPU_GRU),
        ("gru", (35, 20, 64), {"training": False}, TORCH_KERNEL),
        ("gru", (35, 20, 64), {"forced": "torch"}, TORCH_KERNEL),
        ("gru", (8, 20, 512), {"training": False}, CPU_GRU),
        ("gru", (2, 2, 16), {}, TORCH_KERNEL),
        ("gru", (2, 2, 16), {"forced": "cpu_loop"}, CPU_GRU),
        ("gru", (1, 4, 512), {"training": False}, SINGLE_STEP),
        ("gru", (1, 4, 512), {}, TORCH_KERNEL),
        ("gru", (1, 4, 512), {"training": False, "forced": "cpu_loop"}, CPU_GRU),
    ],
    ids=label,
)
def test_the_choice_in_float32(kind, size, how, expected):
    assert chosen(kind, *size, **how) is expected


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16 products of oneDNN's")
@pytest.mark.parametrize(
    ("kind", "size", "how", "expected"),
    [
        ("lstm", (32, 16, 640), {}, CPU_LSTM),
        ("lstm", (32, 16, 640), {"training": False}, TORCH_KERNEL),
        ("lstm", (32, 16, 640), {"packed": True}, TORCH_KERNEL),
        ("lstm", (2, 2, 16), {"forced": "cpu_loop"}, CPU_LSTM),
        ("lstm", (1, 1, 512), {}, SINGLE_STEP),
        ("gru", (35, 20, 64), {}, CPU_GRU),
        ("gru", (8, 20, 512), {}, TORCH_KERNEL),
    ],
    ids=label,
)
def test_the_choice_under_autocast(kind, size, how, expected):
    assert chosen(kind, *size, autocast=True, **how) is expected


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch
@each_kind
def test_transforms_without_a_rule_are_unrolled(kind):
    module, x, seen = MODULES[kind](8, 16), torch.zeros(3, 2, 8), []

    def total(x):
        seen.append(select_backend(call_of(module, x)))
        return x.sum()

    vmap(total)(torch.stack([x, x])), jvp(total, (x,), (x,)), vmap(grad(total))(torch.stack([x, x])), grad(total)(x)
    assert seen == [UNROLLED, UNROLLED, UNROLLED, TORCH_KERNEL]


@each_kind
def test_a_captured_graph_has_the_custom_operators(kind):
    module, x, seen = MODULES[kind](8, 16), torch.zeros(3, 2, 8), []

    @torch.compile(backend="eager", fullgraph=True)
    def select(x):
        seen.append(select_backend(call_of(module, x)) is CUSTOM_OPS)
        return x + 1

    select(x)
    assert seen == [True]


@each_kind
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_every_back_end_of_a_kind_computes_the_same(kind, packed):
    module = MODULES[kind](8, 16, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 8)
    call = call_of(module, pack_padded_sequence(x, [5, 3, 2]) if packed else x)
    expected = TORCH_KERNEL.run(call)
    for candidate in (*BACKENDS[kind], UNROLLED):
        if candidate not in (CPU_LSTM, RESET_STEPS):  # of bfloat16, and of calls with resets
            torch.testing.assert_close(tensors(candidate.run(call)), tensors(expected))
