"""The private names of torch that wnseq uses, each probed once at import; no other module touches one.

Where a probe fails, one warning lists what is missing, and public functions of torch run instead: same results, slower.
"""

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import flop_registry, register_flop_formula

Sizes = Sequence[int]  # a shape
_Value = TypeVar("_Value")
_Function = TypeVar("_Function", bound=Callable[..., Any])

_missing: list[str] = []


def _probe(name: str, find: Callable[[], Any], default: Any = None) -> Any:
    """Return what ``find`` returns, or the default where this torch lacks the name or has changed its meaning."""
    try:
        return find()
    except (AttributeError, ImportError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError):
        _missing.append(name)
        return default


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, device="cpu", dtype=torch.float32)  # not the defaults at import


def _equal(found: Tensor, value: float) -> bool:
    if abs(found.item() - value) > 1e-6:
        raise ValueError("a probe has another result than documented")
    return True


# ---- Is something recording what runs?


def is_tracing() -> bool:
    """Return True if a graph is being captured, in which a shape is not a number that can be compared."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def constant_in_graph(function: _Function) -> _Function:
    """Mark a function that runs once, when a graph is captured, as torch.compiler.assume_constant_result does.

    That one loads torch._dynamo, which takes as long as torch itself; what it then does is this.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_autocast(device: str) -> bool:
    """Return True if autocast is on for a type of device; a ``meta`` tensor's has none."""
    return device != "meta" and torch.is_autocast_enabled(device)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Return True if there may be a backward through one of these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _find_transform_state() -> Callable[[], bool]:
    if type(torch._C._are_functorch_transforms_active()) is not bool or type(forward_ad._current_level) is not int:
        raise TypeError("neither a bool nor a number")
    return torch._C._are_functorch_transforms_active


def _find_transform_stack() -> tuple[Callable[[], Any], tuple[Any, ...]]:
    functorch = torch._C._functorch
    for level in functorch.get_interpreter_stack() or ():
        level.key()
    return functorch.get_interpreter_stack, (functorch.TransformType.Vmap, functorch.TransformType.Jvp)


_transforms_active: Callable[[], bool] | None = _probe(
    "torch._C._are_functorch_transforms_active", _find_transform_state
)
_transform_stack, _VMAP_AND_JVP = _probe("torch._C._functorch", _find_transform_stack, (None, ()))


def is_recording(*tensors: Tensor | None) -> bool:
    """Return True if a graph is captured, a transform of ``torch.func`` is active, or derivatives go forward.

    Only operators with all of torch's rules may run then. The tensors are looked at only where torch does not show
    whether a transform is active.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    if _transforms_active is not None:
        return _transforms_active() or forward_ad._current_level >= 0
    return any(is_wrapped(tensor) or _has_tangent(tensor) for tensor in tensors if tensor is not None)


def has_vmap_or_jvp(*tensors: Tensor) -> bool:
    """Return True if ``torch.func.vmap`` or ``jvp`` is active; in a compiled function if any transform is."""
    if torch.compiler.is_compiling():  # the transforms cannot be told apart there
        return _transforms_active is not None and _transforms_active()
    if _transform_stack is not None:
        levels = _transform_stack()
        return bool(levels) and any(level.key() in _VMAP_AND_JVP for level in levels)
    return any(is_wrapped(tensor) for tensor in tensors)


def is_wrapped(tensor: Tensor) -> bool:
    """Return True if a transform of ``torch.func`` has wrapped the tensor, which hides its storage then."""
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return True
    return False


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _raise_unless(condition: bool) -> None:
    if not condition:
        raise RuntimeError("sizes differ that must be equal")


# for torch.compile: a condition on sizes that are known at run time only
check_size: Callable[[bool], None] = _probe("torch._check", lambda: torch._check, _raise_unless)
# a context whose operators no mode sees, as a counter of products
unseen_by_modes: Callable[[], AbstractContextManager[None]] = _probe(
    "torch.utils._mode_utils.no_dispatch", lambda: torch.utils._mode_utils.no_dispatch, nullcontext
)


# ---- Modules


def _find_global_hooks() -> Callable[[], bool]:
    has_any: Callable[[], bool] = nn.modules.module._has_any_global_hook
    has_any()
    return has_any


_has_global_hooks: Callable[[], bool] = _probe(
    "torch.nn.modules.module._has_any_global_hook", _find_global_hooks, lambda: True
)


def has_hooks(module: nn.Module) -> bool:
    """Return True if a call of a module runs hooks, its own or those of all modules."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own) or (not torch.compiler.is_compiling() and bool(_has_global_hooks()))


# ---- Weight norm

_weight_norm_interface = _probe(
    "torch._weight_norm_interface",
    lambda: _equal(torch._weight_norm_interface(_ones(1, 1), _ones(1, 1), 0)[1], 1) and torch._weight_norm_interface,
)
HAS_FUSED_WEIGHT_NORM = _weight_norm_interface is not None


def fused_weight_norm(v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return g·v/‖v‖ and ‖v‖ over the rows of v, g and the norms in a shape that broadcasts against v."""
    w, norms = _weight_norm_interface(v, g, 0)
    return w, norms


def _find_weight_norm_backward() -> Any:
    backward = torch.ops.aten._weight_norm_interface_backward.default
    _equal(backward(_ones(1, 1), _ones(1, 1), _ones(1, 1), _ones(1, 1), 0)[1], 1)
    return backward


_weight_norm_backward = _probe("torch.ops.aten._weight_norm_interface_backward", _find_weight_norm_backward)


def fused_weight_norm_backward(d_w: Tensor, v: Tensor, g: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of v and g; shapes as of :func:`fused_weight_norm`."""
    d_v, d_g = _weight_norm_backward(d_w, v, g, norms, 0)
    return d_v, d_g


def _find_memory_users() -> tuple[Callable[[Tensor], tuple[int, int]], tuple[int, int]]:
    def users(tensor: Tensor) -> tuple[int, int]:
        storage = tensor.untyped_storage()  # one object of Python for all that share it, while something holds that
        return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)

    one = _ones(1)
    alone = users(one)
    held: Any = one.detach()
    with_view = users(one)
    held = one.untyped_storage()
    if alone in (with_view, users(one)):
        raise ValueError("the references are counted in another way")
    del held
    return users, _same(alone, users(one))


def _same(first: _Value, second: _Value) -> _Value:
    if first != second:
        raise ValueError("a probe has another result than documented")
    return first


_memory_users, _ALONE = _probe("torch._C._storage_Use_Count", _find_memory_users, (None, None))


def _find_tensor_users() -> Callable[[Tensor], int]:
    count: Callable[[Tensor], int] = Tensor._use_count  # type: ignore[attr-defined]
    _same(count(_ones(1)), 1)
    return count


_tensor_users: Callable[[Tensor], int] | None = _probe("torch.Tensor._use_count", _find_tensor_users)
CAN_REUSE_WEIGHTS = None not in (_weight_norm_backward, _memory_users, _tensor_users)


def has_memory_alone(tensor: Tensor) -> bool:
    """Return True if no other tensor, view, graph or storage object shares a tensor's memory, and no other process."""
    if _memory_users is None or _memory_users(tensor) != _ALONE:
        return False
    return not tensor.is_shared()  # type: ignore[no-untyped-call]


def references(values: Sequence[Tensor]) -> tuple[int, int]:
    """Return how many references Python and torch hold to the first of some tensors."""
    return sys.getrefcount(values[0]), 0 if _tensor_users is None else _tensor_users(values[0])


def _weight_norm_class() -> type[nn.Module]:
    """Return the class behind ``torch.nn.utils.parametrizations.weight_norm``, which has no public name."""
    module = nn.Module()
    module.weight = nn.Parameter(_ones(1, 1))
    return type(parametrizations.weight_norm(module).parametrizations.weight[0])


WeightNormParametrization = _weight_norm_class()
BatchNormBase: type[nn.Module] = nn.BatchNorm1d.__mro__[1]  # of every batch norm of torch, without a public name


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return a number that no other storage has while this one is alive."""
    return int(storage._cdata)


# ---- MKL and oneDNN


def processor_capabilities() -> dict[str, Any]:
    """Return what torch knows of the processor, by name: nothing in a torch without that function, which is public."""
    find: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return find()


def _find_mkl_products() -> tuple[Any, Any]:
    product, prepack = torch.ops.mkl._mkl_linear.default, torch.ops.mkl._mkl_reorder_linear_weight.default
    x, w = _ones(1, 1), _ones(1, 1)
    _equal(product(x, prepack(w, 1), w, None, 1), 1)
    return product, prepack


def _find_products() -> tuple[Any, Any]:
    product, prepack = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._reorder_linear_weight.default
    x, w = _ones(1, 1), _ones(1, 1)
    _equal(product(x, w, None, "none", [], ""), 1)
    _equal(product(x, prepack(w, 1), None, "none", [], ""), 1)
    return product, prepack


def _find_lstm() -> tuple[Any, Any]:
    forward, backward = torch.ops.aten.mkldnn_rnn_layer.default, torch.ops.aten.mkldnn_rnn_layer_backward.default
    x, w, b = _ones(1, 1, 1), 0 * _ones(4, 1), 0 * _ones(4)
    _equal(forward(x, w, w, b, b, _ones(1, 1), _ones(1, 1), False, [], _LSTM, 1, 1, True, False, False, False)[2], 0.5)
    return forward, backward


_LSTM = 2  # torch's number of the recurrence
_neither: tuple[Any, Any] = (None, None)
_has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
IS_MKL_FAST = _has_mkl and "Intel" in str(processor_capabilities().get("cpu_name"))  # as oneDNN or faster
HAS_AMX = bool(processor_capabilities().get("amx_bf16"))  # instructions for products of whole tiles
_mkl_linear, _mkl_prepack = _probe("torch.ops.mkl._mkl_linear", _find_mkl_products, _neither) if _has_mkl else _neither
HAS_MKL_PREPACKED = _mkl_linear is not None
_available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_linear_pointwise, _reorder_linear_weight = (
    _probe("torch.ops.mkldnn._linear_pointwise", _find_products, _neither) if _available else _neither
)
_lstm, _lstm_backward = _probe("torch.ops.aten.mkldnn_rnn_layer", _find_lstm, _neither) if _available else _neither
HAS_ONEDNN = _linear_pointwise is not None
HAS_ONEDNN_LSTM = _lstm is not None
HAS_ONEDNN_BF16: bool = HAS_ONEDNN and _probe(
    "torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()), False
)


def _register_flops() -> None:
    """Register prepacked products with ``FlopCounterMode``, which knows none, nor those of ``nn.LSTM`` on a CPU."""
    ops = torch.ops
    if _mkl_linear is not None and ops.mkl._mkl_linear not in flop_registry:

        @register_flop_formula(ops.mkl._mkl_linear)
        def _mkl_product(x: Sizes, packed: Sizes, w: Sizes, *_: Any, **__: Any) -> int:
            return rnn_flops(x, w)

    if _linear_pointwise is not None and ops.mkldnn._linear_pointwise not in flop_registry:

        @register_flop_formula(ops.mkldnn._linear_pointwise)
        def _product(x: Sizes, w: Sizes, *_: Any, out_shape: Sizes, **__: Any) -> int:
            return 2 * math.prod(out_shape) * x[-1]

    if _lstm is not None and ops.aten.mkldnn_rnn_layer not in flop_registry:

        @register_flop_formula(ops.aten.mkldnn_rnn_layer)
        def _layer(x: Sizes, w_ih: Sizes, w_hh: Sizes, *_: Any, **__: Any) -> int:
            return rnn_flops(x, w_ih, w_hh)

        @register_flop_formula(ops.aten.mkldnn_rnn_layer_backward)
        def _layer_backward(x: Sizes, w_ih: Sizes, w_hh: Sizes, *_: Any, **__: Any) -> int:
            return 2 * rnn_flops(x, w_ih, w_hh)


def rnn_flops(x: Sizes, *weights: Sizes | None) -> int:
    """Return the operations of the products of one layer: each weight by each row; its backward has twice as many."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(w) for w in weights if w is not None)


_probe("torch.utils.flop_counter", _register_flops)


def mkl_linear(x: Tensor, packed: Tensor, w: Tensor, b: Tensor | None, rows: int) -> Tensor:
    """Return x Wᵀ + b by a weight packed for so many rows, of others by w itself; no derivative is recorded."""
    y: Tensor = _mkl_linear(x, packed, w, _dense(b), rows)
    return y


def mkl_prepack(w: Tensor, rows: int) -> Tensor:
    """Return a contiguous weight in MKL's own layout, for products with exactly so many rows."""
    packed: Tensor = _mkl_prepack(w, rows)
    return packed


def onednn_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Return x Wᵀ + b, w dense or prepacked; no derivative is recorded."""
    y: Tensor = _linear_pointwise(x, w, _dense(b), "none", [], "")
    return y


def _dense(b: Tensor | None) -> Tensor | None:
    """Return a bias as the products read it: entry after entry, whatever its strides are."""
    return b if b is None else b.contiguous()


def onednn_prepack(w: Tensor, rows: int) -> Tensor:
    """Return a weight in oneDNN's own layout, for products with so many rows."""
    packed: Tensor = _reorder_linear_weight(w, rows)
    return packed


def onednn_lstm(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], reverse: bool, train: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one padded LSTM layer in one direction; return output, final states and the workspace of its backward."""
    x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    with torch.set_grad_enabled(train):  # torch makes a workspace only where gradients are enabled
        output, h, c, workspace = _lstm(x, *weights, h, c, reverse, [], _LSTM, c.shape[1], 1, True, False, False, train)
    return output, h.view(c.shape), c.view(c.shape), workspace


def onednn_lstm_backward(
    d_output: Tensor, d_h: Tensor, d_c: Tensor, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the layer again, since a graph cannot hold a workspace of unknown size; return its gradients.

    They are those of x, h, c, w_ih, w_hh and of each bias.
    """
    x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    output, new_h, new_c, workspace = onednn_lstm(x, h, c, weights, reverse, train=True)
    states, gradients = (h, c, output, new_h, new_c), (d_output.contiguous(), d_h.contiguous(), d_c.contiguous())
    d_x, d_ih, d_hh, d_bias, _, d_h, d_c = _lstm_backward(
        x, *weights, *states, *gradients, reverse, _LSTM, c.shape[1], 1, True, True, False, [], False, workspace
    )
    return d_x, d_h.view(h.shape), d_c.view(c.shape), d_ih, d_hh, d_bias


if _missing:
    warnings.warn(
        f"torch {torch.__version__} lacks {', '.join(_missing)} or has changed it; wnseq uses public functions of "
        "torch instead, which give the same results more slowly",
        RuntimeWarning,
        stacklevel=2,
    )
