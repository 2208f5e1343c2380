"""Which layers of a model ``target_modules`` means: names with wildcards, and classes."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import nn

Target = str | type
Targets = Target | Iterable[Target] | None


class TargetModules:
    """The items of ``target_modules``, and which of them were found in a model."""

    def __init__(self, function: str, model: nn.Module, targets: Targets, classes: Collection[type] = ()) -> None:
        """Check the items; with ``classes``, no other class may be among them."""
        self.function = function
        self.items = None if targets is None else [targets] if isinstance(targets, Target) else list(targets)
        for item in self.items or ():
            if not isinstance(item, Target):
                raise TypeError(f"{function}: target_modules takes names and classes, got {type(item).__name__}")
            if isinstance(item, type) and classes and item not in classes:
                known = ", ".join(f"nn.{cls.__name__}" for cls in classes if cls.__module__.startswith("torch."))
                raise TypeError(f"{function}: target_modules takes the classes {known}, got {item.__name__}")
        self._names: dict[int, list[str]] = defaultdict(list)  # a shared module has one for each of its places
        for path, module in model.named_modules(remove_duplicate=False):
            self._names[id(module)].append(path)
        self._found: list[Target] = []
        self._there: list[str] = []

    def hits(self, module: nn.Module) -> list[Target]:
        """Return the items that mean a layer, and note that the layer is there."""
        names = self._names[id(module)]
        hits = [
            item
            for item in self.items or ()
            if (isinstance(module, item) if isinstance(item, type) else any(fnmatchcase(name, item) for name in names))
        ]
        self._there += names
        self._found += hits
        return hits

    def refuse(self, module: nn.Module, hits: Iterable[Target], reason: str) -> None:
        """Raise ValueError if a layer that cannot be converted was named without a wildcard."""
        if exact := [item for item in hits if item in self._names[id(module)]]:
            raise ValueError(f"{self.function}: target_modules={exact[0]!r} cannot be converted: {reason}")

    def check_found(self, layers: str = "layer") -> None:
        """Raise ValueError if a name means no layer at all."""
        for item in self.items or ():
            if isinstance(item, str) and item not in self._found:
                raise ValueError(
                    f"{self.function}: target_modules={item!r} matches no {layers} of the model; "
                    f"there are {', '.join(map(repr, self._there)) or 'none'}"
                )
