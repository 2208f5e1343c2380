"""What the ``wnseq`` command does before the imports, which take seconds: Ctrl-C ends them without a traceback."""

import sys
from pathlib import Path
from types import TracebackType

__all__: list[str] = []


def _show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    """Show an exception that nobody has handled, unless it is Ctrl-C."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, value, traceback)


if Path(sys.argv[0]).stem == "wnseq" or sys.orig_argv[1:3] == ["-m", "wnseq"]:
    sys.excepthook = _show
