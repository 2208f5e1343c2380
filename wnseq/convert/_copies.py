"""The deep copy of a model in which layers are replaced by others."""

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from wnseq.convert._counterparts import Counterpart, empty_like
from wnseq.nn._module import WNModule
from wnseq.nn._weight_pairs import find_weight_norm, is_torch_hook, plain_class, qualified_name

_HOOKS = [name for name in vars(nn.Module()) if name.startswith(("_forward_", "_backward_", "_is_full_backward_"))]


class Copies:
    """The new modules of a conversion, and the deep copy that replaces the old ones by them.

    An empty new module is in the memo of ``copy.deepcopy`` from the start, so that the copy uses it wherever it meets
    the old one: in an attribute, a list, a bound method of a hook or twice; not in the closure of a function.
    """

    def __init__(self, model: nn.Module) -> None:
        self.memo: dict[int, Any] = {}
        self.started: list[tuple[nn.Module, Any, Counterpart]] = []
        self.model = model
        for tensor in _tensors(model):
            if not tensor.is_leaf:
                # a kept activation, or the weight that a hook of torch (weight norm, spectral norm, pruning) computes
                # before each forward: copy.deepcopy refuses what has a gradient history
                self.memo[id(tensor)] = tensor.detach().clone()

    def start(self, old: nn.Module, pair: Counterpart, cls: type[nn.Module]) -> None:
        new = self.memo[id(old)] = empty_like(old, cls, pair.arguments)
        self.started.append((old, new, pair))

    def fill(self, old: nn.Module, new: nn.Module, pair: Counterpart, parameters: Mapping[str, Any]) -> None:
        """Set a new module's parameters, and what else the old one carries."""
        olds = {id(parameter) for parameter in old.parameters()}  # also those of a parametrisation
        self.memo.update({id(made): made for made in parameters.values() if id(made) not in olds})  # no copy of these
        # into the existing dictionary: in the constructor's order, and that of WNModule guards the composed names
        new._parameters.update(self.copy(dict(parameters)))
        usual = vars(empty_like(old, plain_class(old), pair.arguments))
        rest = without_torch_weight_norm(old)
        own = {name: value for name, value in rest.items() if name in _HOOKS or name not in usual}
        own.pop("_compiled_call_impl", None)  # nn.Module.compile() was of the old one
        state = self.copy((own, old._buffers, rest["_modules"], old._non_persistent_buffers_set))
        vars(new).update(state[0])
        new._buffers, new._modules, new._non_persistent_buffers_set = state[1:]
        new.training = old.training
        if isinstance(new, WNModule):
            new.accept_v_and_g()
        if isinstance(new, nn.RNNBase):
            new._init_flat_weights()

    def copy(self, value: Any) -> Any:
        """Copy deeply; name the attribute that cannot be copied."""
        before = dict(self.memo)
        try:
            return copy.deepcopy(value, self.memo)
        except (RuntimeError, TypeError) as error:
            for path, module in self.model.named_modules():
                for name, part in vars(module).items():
                    if name != "_modules" and not _can_be_copied(part, dict(before)):
                        problem = (
                            f"{qualified_name(path, name)}, a {type(part).__name__}, cannot be copied with the model"
                        )
                        remedy = "set it to None before the conversion, or detach the tensors in it"
                        cls = RuntimeError if isinstance(error, RuntimeError) else TypeError
                        raise cls(f"{error}; {problem}: {remedy}") from error
            raise

    def of(self, model: nn.Module) -> nn.Module:
        made: nn.Module = self.copy(model)
        return made


def without_torch_weight_norm(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module without the hooks, weights and submodules of torch's weight norm."""
    weights = () if isinstance(module, WNModule) else find_weight_norm(module)  # the hook keeps each weight there
    state = {key: value for key, value in vars(module).items() if key not in weights}
    if plain_class(module) is not type(module):
        state["_modules"] = {name: part for name, part in module._modules.items() if name != "parametrizations"}
    for key in ("_forward_pre_hooks", "_load_state_dict_pre_hooks"):
        state[key] = type(state[key])((k, hook) for k, hook in state[key].items() if not is_torch_hook(hook))
    return state


def _can_be_copied(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, memo)
    except (RuntimeError, TypeError):
        return False
    return True


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors that the modules of a model hold, also those in collections and data classes."""
    seen: set[int] = set()
    todo: list[Any] = [model]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset | deque):
            todo += value
        elif isinstance(value, nn.Module) or (is_dataclass(value) and not isinstance(value, type)):
            todo += getattr(value, "__dict__", {}).values()
