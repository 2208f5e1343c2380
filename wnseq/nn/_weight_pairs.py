"""Find the weight-normalised weights of any model, wnseq's and torch's, with the v and g of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from wnseq._torch_internals import WeightNormParametrization
from wnseq.functional import Layout
from wnseq.nn._module import WNModule
from wnseq.state_dict import param_names


class WeightNormParams(NamedTuple):
    """The v and g of a weight, and the layout of a g with one axis; torch's g has more axes, which show its own."""

    v: Any
    g: Any
    layout: Layout = (0, 1)  # torch's g has the dimensions of v, which show its axis


def find_weight_norm(module: nn.Module) -> dict[str, WeightNormParams]:
    """Return v and g of each weight-normalised weight of one module, wnseq's or torch's, by the weight's name."""
    if isinstance(module, WNModule):
        return {name: WeightNormParams(*module.v_and_g(name), module.layouts[name]) for name in module.weight_names}
    found: dict[str, WeightNormParams] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            v, g = param_names(hook.name)
            found[hook.name] = WeightNormParams(getattr(module, v), getattr(module, g))
    for name, chain in _chains(module):
        if len(chain) == 1 and isinstance(chain[0], WeightNormParametrization):
            found[name] = WeightNormParams(chain.original1, chain.original0)
    return found


def parameters_of(module: nn.Module, part: str, value: Any) -> list[nn.Parameter]:
    """Return the parameters behind a v or g: itself, or the originals from which pruning or a parametrisation makes it.

    Args:
        module: Where it is.
        part: Its name there.
        value: v or g, as :func:`find_weight_norm` returns it.
    """
    if isinstance(value, nn.Parameter):
        return [value]
    pruned = module._parameters.get(f"{part}_orig")
    chain = dict(_chains(module)).get(part)
    stored = [parameter for name, parameter in chain.named_parameters() if name.startswith("original")] if chain else []
    return stored if pruned is None else [pruned]


def further_parametrizations(module: nn.Module) -> str:
    """Return why torch's weight norm cannot be removed from a module, or an empty text.

    torch makes one class with a property for each parametrised tensor, so that all of them are removed or none.
    """
    chains = dict(_chains(module))
    kinds = {name: [type(part) for part in chain] for name, chain in chains.items()}
    further = [name for name, kind in kinds.items() if kind != [WeightNormParametrization]]
    if further and (find_weight_norm(module) or any(WeightNormParametrization in kind for kind in kinds.values())):
        return f"{', '.join(further)} has further parametrisations: remove them first"
    return ""


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before torch's parametrisations gave it one of its own."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def is_torch_hook(hook: Any) -> bool:
    """Return True if a hook is part of torch's weight norm, of either kind."""
    inner = getattr(hook, "hook", hook)
    return isinstance(hook, WeightNorm) or getattr(inner, "__name__", "") == "_weight_norm_compat_hook"


def directions(model: nn.Module, *, writable: bool = False) -> Iterator[tuple[str, WeightNormParams]]:
    """Yield the qualified name of each v of a model's WNModules, once, with its v, g and layout.

    Where v shall be writable, RuntimeError says that one is computed.
    """
    seen = set()
    for path, module in model.named_modules():
        for name, params in find_weight_norm(module).items() if isinstance(module, WNModule) else ():
            if id(params.v) not in seen:
                seen.add(id(params.v))
                if writable:
                    module.refuse_computed(param_names(name)[0])
                yield qualified_name(path, param_names(name)[0]), params


def qualified_name(path: str, name: str) -> str:
    """Join the path of a module, empty for the model itself, and a name in it."""
    return f"{path}.{name}" if path else name


def _chains(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the parametrised tensors of a module, each with its list of parametrisations."""
    if parametrize.is_parametrized(module):
        chains: Any = module.parametrizations
        yield from chains.items()
