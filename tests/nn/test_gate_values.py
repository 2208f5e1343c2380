"""The gates of recurrent layers, against their equations in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence

import wnseq
from wnseq.errors import ShapeError
from wnseq.nn import MLSTM, WNMLSTM, MinLSTM, WNMinGRU, WNMinLSTM, gate_values

T, N, F, H = 6, 3, 4, 5  # steps, sequences, features, units


def weights(module: nn.Module, end: str = "l0") -> dict[str, Tensor]:
    plain = wnseq.state_dict_as(module, "plain")
    return {name.removesuffix(f"_{end}"): value for name, value in plain.items() if name.endswith(end)}


def expected(module: nn.Module, x: Tensor, h: Tensor, end: str = "l0") -> dict[str, Tensor]:
    """Compute the gates from the states before each step, ``(T, N, H)``."""
    w = weights(module, end)
    if isinstance(module, WNMLSTM | MLSTM):
        h = (x @ w["weight_im"].t()) * (h @ w["weight_hm"].t())
    a = x @ w["weight_ih"].t() + w["bias_ih"]
    if isinstance(module, WNMinGRU):
        return {"keep": 1 - a[..., :H].sigmoid()}
    if isinstance(module, WNMinLSTM | MinLSTM):
        i, f = a[..., :H].sigmoid(), a[..., H : 2 * H].sigmoid()
        return {"keep": f / (i + f)}
    a = a + h @ w["weight_hh"].t() + w.get("bias_hh", 0)
    rows = [a[..., k * H : (k + 1) * H].sigmoid() for k in range(4)]
    if a.shape[-1] == 3 * H:
        return {"reset": rows[0], "update": rows[1]}
    return {"input": rows[0], "forget": rows[1], "output": rows[3]}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert [*found] == [*wanted]
    for gate, values in wanted.items():
        torch.testing.assert_close(found[gate], values, rtol=0, atol=1e-12)


LAYERS = {
    "lstm": lambda: wnseq.WNLSTM(F, H),
    "torch": lambda: nn.LSTM(F, H),
    "projected": lambda: wnseq.WNLSTM(F, H, proj_size=2),
    "zoneout": lambda: wnseq.WNLSTM(F, H, zoneout=0.3),
    "gru": lambda: wnseq.WNGRU(F, H),
    "mingru": lambda: WNMinGRU(F, H),
    "minlstm": lambda: WNMinLSTM(F, H),
    "plain minlstm": lambda: MinLSTM(F, H),
    "mlstm": lambda: WNMLSTM(F, H),
}


@pytest.mark.parametrize("name", [*LAYERS])
def test_gates_are_those_of_the_equations(name: str) -> None:
    torch.manual_seed(0)
    module = LAYERS[name]().double().eval()
    x = torch.randn(T, N, F, dtype=torch.float64)
    outputs, _ = module(x)
    before = torch.cat([torch.zeros_like(outputs[:1]), outputs[:-1]])
    (found,) = gate_values(module, x).values()
    assert_same(found, expected(module, x, before))
    half = T // 2  # from a state
    _, state = module(x[:half])
    (late,) = gate_values(module, x[half:], state).values()
    assert_same(late, {gate: values[half:] for gate, values in found.items()})


def test_layers_and_directions_have_their_own() -> None:
    torch.manual_seed(0)
    module = wnseq.WNGRU(F, H, 2, bidirectional=True, batch_first=True).double().eval()
    x = torch.randn(N, T, F, dtype=torch.float64)
    found = gate_values(module, x)
    assert [*found] == ["l0", "l0_reverse", "l1", "l1_reverse"]
    below = wnseq.WNGRU(F, H, bidirectional=True, batch_first=True).double()
    below.load_state_dict({name: value for name, value in module.state_dict().items() if "_l0" in name})
    middle = below(x)[0].transpose(0, 1)
    above = module(x)[0].transpose(0, 1)
    zero = torch.zeros_like(above[:1, :, :H])
    assert_same(found["l1"], expected(module, middle, torch.cat([zero, above[:-1, :, :H]]), "l1"))
    backward = torch.cat([above[1:, :, H:], zero])
    assert_same(found["l1_reverse"], expected(module, middle, backward, "l1_reverse"))


def test_a_packed_batch_is_read_as_each_sequence_alone() -> None:
    torch.manual_seed(0)
    module, x = wnseq.WNLSTM(F, H).double().eval(), torch.randn(T, 2, F, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([T, 4]))
    forget = gate_values(module, packed)["l0"]["forget"]
    alone = [gate_values(module, x[:length, k : k + 1])["l0"]["forget"] for k, length in enumerate((T, 4))]
    rows = [alone[k][t, 0] for t in range(T) for k in range(2) if t < (T, 4)[k]]
    torch.testing.assert_close(forget, torch.stack(rows), rtol=0, atol=1e-12)


def test_a_border_resets_the_state_before_its_gates() -> None:
    torch.manual_seed(0)
    module, x = wnseq.WNLSTM(F, H).double().eval(), torch.randn(T, N, F, dtype=torch.float64)
    reset = torch.zeros(T, N, dtype=torch.bool)
    reset[3] = True
    found = gate_values(module, x, None, reset)["l0"]["output"]
    torch.testing.assert_close(found[3:], gate_values(module, x[3:])["l0"]["output"], rtol=0, atol=1e-12)


def test_an_elman_net_has_no_gate() -> None:
    assert gate_values(wnseq.WNRNN(F, H), torch.randn(T, N, F)) == {"l0": {}}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["pruned", "weight_norm"])
def test_weights_that_a_hook_computes_are_those_of_now(kind: str) -> None:
    module: nn.Module = wnseq.WNGRU(F, H) if kind == "pruned" else nn.utils.weight_norm(nn.GRU(F, H), "weight_hh_l0")
    if kind == "pruned":
        prune.random_unstructured(module, "weight_hh_l0_v", 0.5)
    x = torch.randn(T, N, F)
    module(x)
    with torch.no_grad():
        v = module.get_parameter("weight_hh_l0_v_orig" if kind == "pruned" else "weight_hh_l0_v")
        v.add_(torch.randn(3 * H, H))
    early = gate_values(module, x)["l0"]["reset"]
    module(x)
    assert torch.equal(early, gate_values(module, x)["l0"]["reset"])


def test_what_has_no_gates_to_read_is_named() -> None:
    for module in (nn.Linear(F, H), wnseq.WNLSTMCell(F, H), wnseq.RNNStack([wnseq.WNLSTM(F, H)])):
        with pytest.raises(TypeError, match=f"must be recurrent layers, as WNLSTM, got {type(module).__name__}"):
            gate_values(module, torch.randn(T, N, F))
    for module in (wnseq.WNLSTM(F, H), WNMLSTM(F, H)):
        with pytest.raises(ShapeError, match="Expected sequence length to be larger than 0"):
            gate_values(module, torch.randn(0, N, F))
