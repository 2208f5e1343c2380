"""The hidden units of recurrent layers: the rows in which each is computed, and the columns in which it is read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wnseq._recurrence.steps import GATES, gate_slice
from wnseq.nn._module import WNModule
from wnseq.nn._weight_pairs import find_weight_norm, qualified_name

Readers = Mapping[str, str | Iterable[str]]
CANDIDATE = {"rnn": "hidden", "lstm": "cell", "gru": "new", "mingru": "new", "minlstm": "new"}


@dataclass
class Units:
    """The H units of one layer in one direction.

    Args:
        rnn: The recurrent module.
        kind: Its kind, as in GATES.
        suffix: End of the names of its parameters: ``_l0_reverse``.
        columns: Weights that read the units: module, name and the first of H columns.
    """

    rnn: Any
    kind: str
    suffix: str
    columns: list[tuple[Any, str, int]] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """Names of the weights with the units' gates in their rows."""
        names = [f"weight_{part}{self.suffix}" for part in ("ih", "hh")]
        return [name for name in names if hasattr(self.rnn, name)]  # a minGRU has no recurrent weight

    @property
    def biases(self) -> list[str]:
        """Names of the biases."""
        names = [f"bias_{part}{self.suffix}" for part in ("ih", "hh")]
        return [name for name in names if getattr(self.rnn, name, None) is not None]

    @property
    def candidate(self) -> slice:
        """Rows of the gate without which a unit stays at zero: an LSTM's cell gate, a GRU's new gate."""
        return gate_slice(self.kind, CANDIDATE[self.kind], self.rnn.hidden_size)

    def candidate_bias(self) -> Tensor | None:
        """Return the size of the candidate's bias of each unit; None without biases."""
        biases: list[Tensor] = [getattr(self.rnn, name)[self.candidate] for name in self.biases]
        if self.kind in ("rnn", "lstm") and biases:  # which add the two; a GRU's reset gate lies between them
            return (biases[0] + biases[1]).abs()
        return torch.stack(biases).square().sum(0).sqrt() if biases else None

    @torch.no_grad()
    def strength(self) -> Tensor:
        """Return a bound of what each unit does, ``(H,)``; a unit of strength 0 can be left out.

        min(‖what makes its state leave zero‖, ‖the weights that read it‖)
        """
        squares = [getattr(self.rnn, name)[self.candidate].square().sum(1) for name in self.rows]
        bias = self.candidate_bias()
        speaks = torch.stack([*squares, *([] if bias is None else [bias.square()])]).sum(0)
        return torch.minimum(speaks, self.read_squares()).sqrt()

    def read_squares(self) -> Tensor:
        """Return the sum of squares of the weights that read each unit, ``(H,)``."""
        width = self.rnn.hidden_size
        return torch.stack(
            [getattr(module, name)[:, at : at + width].square().sum(0) for module, name, at in self.columns]
        ).sum(0)


def find_units(model: nn.Module, readers: Readers, function: str) -> Iterator[tuple[str, list[Units]]]:
    """Yield the path of each recurrent module that ``readers`` names, and its units by layer and direction.

    Raises:
        TypeError: ``readers`` is not as above, a module is not recurrent, or a reader is neither a linear nor a
            recurrent layer nor a cell.
        ValueError: There is no such module; a weight is computed; readers are missing, of another width, or of two
            recurrent modules.
    """
    if not isinstance(readers, Mapping):
        raise TypeError(f"{function}: readers must be a dict such as {{'rnn': 'decoder'}}, got {readers!r}")
    modules = dict(model.named_modules())
    read: dict[tuple[int, str], str] = {}  # by module and weight, the recurrent layer whose output it reads
    for path, names in readers.items():
        if not isinstance(names, Iterable):
            raise TypeError(f"{function}: readers[{path!r}] must be a name or several, got {names!r}")
        paths = [path, *([names] if isinstance(names, str) else names)]
        if absent := [repr(each) for each in paths if each not in modules]:
            raise ValueError(
                f"{function}: the model has no module {' and '.join(absent)}; there are {', '.join(modules)}"
            )
        rnn: Any = modules[path]
        kind = str(getattr(rnn, "mode", "")).partition("_")[0].lower()
        if kind not in GATES or kind == "mlstm" or not hasattr(rnn, "num_layers"):
            raise TypeError(
                f"{function}: {path!r} must be a recurrent layer, and no multiplicative LSTM, got {type(rnn).__name__}"
            )
        projected = bool(getattr(rnn, "proj_size", 0))
        outer = [(each, modules[each], name) for each in paths[1:] for name in _reading(each, modules[each], function)]
        if not outer and not projected:
            raise ValueError(f"{function}: readers[{path!r}] must name the layers that read its output, got none")
        _check_weights(path, rnn, function)
        for each, module, name in outer:
            if (other := read.setdefault((id(module), name), path)) != path:
                raise ValueError(f"{function}: {each!r} reads {other!r} and {path!r}, whose units share its columns")
            _check_weights(each, module, function)
            found = getattr(module, name).shape[1]
            wanted = (getattr(rnn, "proj_size", 0) or rnn.hidden_size) * (1 + bool(rnn.bidirectional))
            if found != wanted:
                raise ValueError(f"{function}: {each!r} reads {found} features, and {path!r} gives {wanted}")
        yield path, list(_units(rnn, kind, projected, [(module, name) for _, module, name in outer]))


def _units(rnn: Any, kind: str, projected: bool, outer: list[tuple[Any, str]]) -> Iterator[Units]:
    ends = ("", "_reverse") if rnn.bidirectional else ("",)
    for layer in range(rnn.num_layers):
        following = [(rnn, f"weight_ih_l{layer + 1}{end}") for end in ends] if layer + 1 < rnn.num_layers else outer
        for number, end in enumerate(ends):
            units = Units(rnn, kind, f"_l{layer}{end}")
            if projected:
                units.columns = [(rnn, f"weight_hr{units.suffix}", 0)]
            else:
                units.columns = [(module, name, number * rnn.hidden_size) for module, name in following]
                units.columns += [(rnn, name, 0) for name in units.rows[1:]]
            yield units


def _reading(path: str, module: Any, function: str) -> list[str]:
    """Return the names of the weights of a layer by which it reads its input."""
    ends = []
    if hasattr(module, "num_layers") and hasattr(module, "mode"):
        ends = ["_l0", *(["_l0_reverse"] if module.bidirectional else [])]
    elif hasattr(module, "hidden_size") and hasattr(module, "weight_ih"):
        ends = [""]
    if ends:  # a multiplicative LSTM reads by two weights
        return [name for end in ends for name in (f"weight_ih{end}", f"weight_im{end}") if hasattr(module, name)]
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return ["weight"]
    raise TypeError(
        f"{function}: {path!r} must be a linear or recurrent layer or a cell to read units, got {type(module).__name__}"
    )


def _check_weights(path: str, module: nn.Module, function: str) -> None:
    """Raise ValueError if a weight, or its v or g, is computed by torch's weight norm, pruning or a parametrisation."""
    names = {*find_weight_norm(module)} if not isinstance(module, WNModule) else {*module.computed_v_and_g()}
    usual = getattr(module, "_flat_weights_names", ["weight", "weight_ih", "weight_hh"])
    own = set(module._parameters) | set(getattr(module, "weight_names", ()))
    names |= {name for name in usual if hasattr(module, name) and name not in own}
    if names:
        raise ValueError(
            f"{function}: {qualified_name(path, min(names))} is computed, not a parameter; remove its pruning or "
            "parametrisation first, or convert torch's weight norm with weight_normalize"
        )
