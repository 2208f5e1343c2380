"""Which back end runs a call of each kind, that all of them compute the same, and what is said of a choice."""

import pytest
import torch
from cases import tensors
from torch.func import grad, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence

import wnseq
from wnseq._recurrence import single_step
from wnseq._recurrence.backend import backend
from wnseq._recurrence.call import make_call
from wnseq._recurrence.cpu_lstm import CPU_LSTM
from wnseq._recurrence.dispatch import BACKENDS, select_backend
from wnseq._recurrence.matmul import onednn_supports
from wnseq._recurrence.reset_steps import RESET_STEPS
from wnseq._recurrence.single_step import SINGLE_STEP
from wnseq._recurrence.torch_kernel import TORCH_KERNEL
from wnseq.nn import explain_backend

MODULES = {
    "rnn": wnseq.WNRNN,
    "lstm": wnseq.WNLSTM,
    "gru": wnseq.WNGRU,
    "mingru": wnseq.WNMinGRU,
    "minlstm": wnseq.WNMinLSTM,
    "mlstm": wnseq.WNMLSTM,
}
HAS_BF16 = onednn_supports(torch.zeros(1, dtype=torch.bfloat16))
pytestmark = [
    pytest.mark.skipif(not onednn_supports(torch.zeros(1)), reason="this torch has no oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # inside torch
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # of the checks of shapes
]
# T×N×H, and how: in training, float32 and of 8 features (1,016 if "wide") if nothing else is said; "-" where there is
# no such form
TABLE = """
how                            rnn          lstm         gru          mingru       minlstm      mlstm
35x20x512                      CPURNN       TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
35x20x512 inference            TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
35x20x512 packed               CPURNN       TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
35x20x512 float64              TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
35x20x512 projected            -            TorchKernel  -            -            -            -
35x20x64                       TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
35x20x64 inference             TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
8x20x512                       TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
64x2x16                        TorchKernel  TorchKernel  TorchKernel  ParallelScan ParallelScan CPUMLSTM
64x2x16 packed                 TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
2x2x16                         TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
1x4x512                        TorchKernel  SingleStep   TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
1x4x512 inference              TorchKernel  SingleStep   SingleStep   CPUMinRNN    CPUMinRNN    Unrolled
1x4x512 packed                 TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
1x4x512 projected              -            SingleStep   -            -            -            -
1x33x16                        TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
1x33x16 inference              TorchKernel  SingleStep   TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
32x16x640 autocast             TorchKernel  CPULSTM      CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
32x16x384 autocast             TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
32x16x384 autocast wide        TorchKernel  CPULSTM      CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
32x16x640 autocast inference   TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    CPUMLSTM
32x16x640 autocast packed      TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
35x20x64 autocast              TorchKernel  TorchKernel  CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
1x4x512 autocast               TorchKernel  SingleStep   TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 reset                   CPURNN       ResetSteps   CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 reset packed            CPURNN       CPULSTMFloat CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 reset float64           CPURNN       CPULSTMFloat CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 reset projected         -            CPULSTMFloat -            -            -            -
2x2x16 reset autocast          CPURNN       ResetSteps   CPUGRU       CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 zoneout                 Unrolled     Unrolled     Unrolled     -            -            -
2x2x16 zoneout reset           Unrolled     Unrolled     Unrolled     -            -            -
2x2x16 zoneout compile         Unrolled     Unrolled     Unrolled     -            -            -
2x2x16 compile                 CustomOps    CustomOps    CustomOps    ParallelScan ParallelScan Unrolled
2x2x16 compile reset           CustomOps    CustomOps    CustomOps    ParallelScan ParallelScan Unrolled
2x2x16 trace                   TorchKernel  TorchKernel  TorchKernel  ParallelScan ParallelScan Unrolled
2x2x16 trace reset             CustomOps    CustomOps    CustomOps    ParallelScan ParallelScan Unrolled
2x2x16 vmap                    Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 jvp                     Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 grad                    TorchKernel  TorchKernel  TorchKernel  ParallelScan ParallelScan Unrolled
2x2x16 vmap-of-grad            Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 vmap reset              Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 meta                    TorchKernel  TorchKernel  TorchKernel  ParallelScan ParallelScan Unrolled
2x2x16 cuda                    TorchKernel  TorchKernel  TorchKernel  ParallelScan ParallelScan Unrolled
2x2x16 cuda reset              Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 cpu_loop                CPURNN       CPULSTMFloat CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
2x2x16 cpu_loop autocast       refused      CPULSTM      CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
2x2x16 cpu_loop float64        refused      refused      refused      CPUMinRNN    CPUMinRNN    refused
2x2x16 cpu_loop vmap           refused      refused      refused      refused      refused      refused
2x2x16 cpu_loop,auto vmap      Unrolled     Unrolled     Unrolled     ParallelScan ParallelScan Unrolled
2x2x16 cpu_loop,auto float64   TorchKernel  TorchKernel  TorchKernel  CPUMinRNN    CPUMinRNN    Unrolled
2x2x16 cpu_loop zoneout        refused      refused      refused      -            -            -
1x4x512 cpu_loop inference     CPURNN       CPULSTMFloat CPUGRU       CPUMinRNN    CPUMinRNN    CPUMLSTM
35x20x512 torch                TorchKernel  TorchKernel  TorchKernel  refused      refused      refused
2x2x16 torch reset             refused      refused      refused      refused      refused      refused
2x2x16 torch,cpu_loop reset    CPURNN       CPULSTMFloat CPUGRU       CPUMinRNN    CPUMinRNN    refused
2x2x16 single_step             refused      refused      refused      refused      refused      refused
1x33x16 single_step            refused      SingleStep   SingleStep   refused      refused      refused
2x2x16 reset_steps             refused      refused      refused      refused      refused      refused
2x2x16 reset_steps reset       refused      ResetSteps   refused      refused      refused      refused
2x2x16 parallel_scan           refused      refused      refused      ParallelScan ParallelScan refused
2x2x16 unrolled                Unrolled     Unrolled     Unrolled     Unrolled     Unrolled     Unrolled
2x2x16 custom_ops              refused      refused      refused      refused      refused      refused
"""
HEAD, *ROWS = (line.rsplit(maxsplit=6) for line in TABLE.strip().splitlines())
FORCED = {"cpu_loop", "torch", "single_step", "reset_steps", "parallel_scan", "unrolled", "custom_ops"}


def call_of(module, x, reset=None):
    flat = [parameter for name, parameter in module.named_parameters() if not name.endswith("_g")]
    return make_call(module, flat, x, None, reset)


def chosen(kind, size, how):
    """Return the class of the back end of a call, given in the words of the table."""
    steps, batch, hidden = map(int, size.split("x"))
    options = {"projected": {"proj_size": 8}, "zoneout": {"zoneout": 0.1}}
    device = next((name for name in ("meta", "cuda") if name in how), "cpu")
    dtype = torch.float64 if "float64" in how else torch.float32
    kwargs = {key: value for word, given in options.items() if word in how for key, value in given.items()}
    features = 1016 if "wide" in how else 8
    module = MODULES[kind](features, hidden, device=device, dtype=dtype, **kwargs)
    x = torch.zeros(steps, batch, features, device=device, dtype=dtype)
    reset = torch.zeros(steps, batch, dtype=torch.bool, device=device) if "reset" in how else None
    if "packed" in how:
        x, reset = (part if part is None else pack_padded_sequence(part, [steps] * batch) for part in (x, reset))
    seen = []

    def select(x):
        seen.append(type(select_backend(call_of(module, x, reset))).__name__)
        return x.sum() if "grad" in str(how) else x

    if "compile" in how:
        torch.compiler.reset()
        torch.compile(select, backend="eager", fullgraph=True)(x)
    elif "trace" in how:
        torch.jit.trace(select, x, check_trace=False)
    elif "jvp" in how:
        jvp(select, (x,), (x,))
    elif "grad" in how:
        grad(select)(x)
    elif "vmap-of-grad" in how:
        vmap(grad(select))(torch.stack([x, x]))
    elif "vmap" in how:
        vmap(select)(torch.stack([x, x]))
    else:
        select(x)
    return seen[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table(row, monkeypatch):
    monkeypatch.setattr(single_step, "IS_MKL_FAST", False)  # as on a CPU that is not Intel's
    size, *how = row[0].split()
    forced = next((word.split(",") for word in how if set(word.split(",")) & FORCED), ["auto"])
    if ("autocast" in how and not HAS_BF16) or ("cuda" in how and not torch.cuda.is_available()):
        pytest.skip("this machine can not run it")
    expected = {kind: name for kind, name in zip(HEAD[1:], row[1:], strict=True) if name != "-"}
    with (
        backend(*forced),
        torch.autocast("cpu", torch.bfloat16, enabled="autocast" in how),
        torch.set_grad_enabled("inference" not in how),
    ):
        taken = [kind for kind in expected if expected[kind] != "refused"]
        assert {kind: chosen(kind, size, how) for kind in taken} == {kind: expected[kind] for kind in taken}
        for kind in set(expected) - set(taken):
            with pytest.raises(RuntimeError, match=f"No available kernel. backend.* can not run this {kind}"):
                chosen(kind, size, how)


@pytest.mark.parametrize(
    ("names", "kind", "reason"),
    [
        (("torch",), "gru", r"\('torch'\) .* 3 steps: torch: it resets no state. Leave .*\('torch', 'auto'"),
        (("torch", "single_step"), "lstm", "single_step: it has not one step; torch: it resets no state"),
        (("parallel_scan",), "gru", "parallel_scan: a gru has none"),
    ],
)  # fmt: skip
def test_a_forced_back_end_that_cannot_run_says_why(names, kind, reason):
    module, x = MODULES[kind](8, 6), torch.zeros(3, 2, 8)
    with backend(*names), pytest.raises(RuntimeError, match=reason):
        module(x, reset=torch.ones(3, 2, dtype=torch.bool))


def test_a_choice_is_explained():
    lstm, gru, x = wnseq.LSTM(8, 6), wnseq.WNGRU(8, 6), torch.zeros(3, 2, 8)
    with explain_backend() as choices:
        lstm(x)
        with backend("unrolled"):
            gru(x)
    gru(x)
    first, second = choices
    assert first[:5] == ("lstm", 3, 2, 6, "torch")
    reasons = dict(first.skipped)
    assert list(reasons) == ["custom_ops", "single_step", "cpu_loop", "reset_steps"]
    assert reasons["single_step"] == "it has not one step" and reasons["cpu_loop"].startswith("slower, but for")
    assert dict(second.skipped)["cpu_loop"] == "backend('unrolled') is active"
    assert str(second).startswith("gru 3x2x6: unrolled\n  not custom_ops: no graph is captured\n")


def test_a_choice_in_a_graph_is_explained():
    rnn = torch.compile(wnseq.WNGRU(8, 6), backend="eager", fullgraph=True)
    with explain_backend() as choices:
        rnn(torch.zeros(3, 2, 8))
    assert [choice.name for choice in choices] == ["custom_ops"]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_every_back_end_of_a_kind_computes_the_same(kind, packed):
    module = MODULES[kind](8, 16, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 8)
    call = call_of(module, pack_padded_sequence(x, [5, 3, 2]) if packed else x)
    expected = TORCH_KERNEL.run(call)
    for candidate in BACKENDS[kind]:
        if candidate not in (CPU_LSTM, RESET_STEPS, SINGLE_STEP):  # of bfloat16, of resets, and of one step
            torch.testing.assert_close(tensors(candidate.run(call)), tensors(expected))
