"""The weight-normalised weights of any model, ours and torch's: which they are, and the v and g of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from wnseq.functional import Layout
from wnseq.nn._module import WNModule
from wnseq.state_dict import param_names


class WeightNormParams(NamedTuple):
    """A direction and its scale.

    Args:
        v: Direction.
        g: Scale.
        layout: Output axis and groups, for a g of one axis; torch's has more, and shows its own.
    """

    v: Any
    g: Any
    layout: Layout = (0, 1)


def find_weight_norm(module: nn.Module) -> dict[str, WeightNormParams]:
    """Find v and g of each weight-normalised weight of one module: ours, or torch's in both spellings.

    Args:
        module: Any module. Its children are not looked at.

    Returns:
        The pairs by the name of the weight.
    """
    if isinstance(module, WNModule):
        return {name: WeightNormParams(*module.v_and_g(name), module.layouts[name]) for name in module.weight_names}
    pairs: dict[str, WeightNormParams] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            v, g = param_names(hook.name)
            pairs[hook.name] = WeightNormParams(getattr(module, v), getattr(module, g))
    for name, chain in _chains(module):
        if len(chain) == 1 and isinstance(chain[0], _WeightNorm):
            pairs[name] = WeightNormParams(chain.original1, chain.original0)
    return pairs


def further_parametrizations(module: nn.Module) -> str:
    """Say why torch's weight norm cannot be taken off a module, or nothing.

    Its class is made for it by torch, with a property for each parametrised tensor, so all of them go or none.

    Args:
        module: Any module.

    Returns:
        The reason, or an empty text.
    """
    chains = dict(_chains(module))
    kinds = {name: [type(part) for part in chain] for name, chain in chains.items()}
    further = [name for name, kind in kinds.items() if kind != [_WeightNorm]]
    if further and (find_weight_norm(module) or any(_WeightNorm in kind for kind in kinds.values())):
        return f"{', '.join(further)} has further parametrisations: remove them first"
    return ""


def is_torch_hook(hook: Any) -> bool:
    """Tell whether a hook is part of torch's weight norm; the second kind cannot be pickled.

    Args:
        hook: Any hook of a module.

    Returns:
        Whether it is.
    """
    inner = getattr(hook, "hook", hook)
    return isinstance(hook, WeightNorm) or getattr(inner, "__name__", "") == "_weight_norm_compat_hook"


def directions(model: nn.Module) -> Iterator[tuple[str, WeightNormParams]]:
    """Go through the weights of our modules, each v once.

    Args:
        model: Any module, with its children.

    Yields:
        The qualified name of v, and the pair.
    """
    seen = set()
    for path, module in model.named_modules():
        for name, pair in find_weight_norm(module).items() if isinstance(module, WNModule) else ():
            if id(pair.v) not in seen:
                seen.add(id(pair.v))
                yield qualified_name(path, param_names(name)[0]), pair


def qualified_name(path: str, name: str) -> str:
    """Put a name behind the path of its module, which is empty for the model itself.

    Args:
        path: Qualified name of the module.
        name: Name within it.

    Returns:
        The qualified name.
    """
    return f"{path}.{name}" if path else name


def _chains(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Go through the parametrised tensors of a module, each with its list of parametrisations."""
    if parametrize.is_parametrized(module):
        chains: Any = module.parametrizations
        yield from chains.items()
