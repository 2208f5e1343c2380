"""What torch.fx.symbolic_trace records of wnseq's modules: a call of the module, as of torch's."""

from typing import Any

from torch import nn
from torch.fx import Proxy

from wnseq.functional import compose


def tracer_of(arguments: tuple[Any, ...]) -> Any:
    """Return the tracer of torch.fx whose proxies are among the arguments, or None."""
    for argument in arguments:
        if isinstance(argument, Proxy):
            return argument.tracer
    return None


def record_call(module: nn.Module, tracer: Any, arguments: tuple[Any, ...]) -> Any:
    """Record a call of a module that is a part of what is traced."""
    if module is tracer.root:
        raise TypeError(
            f"torch.fx.symbolic_trace: the forward of {type(module).__name__} looks at its input, which has no values; "
            "trace a module that contains it, such as torch.nn.Sequential(module)"
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


def record_compose(module: Any, tracer: Any, name: str) -> Any:
    """Record the composition of a weight from the module's own v and g."""
    return tracer.create_proxy("call_function", compose, (*module.v_and_g(name), *module.layouts[name]), {})
