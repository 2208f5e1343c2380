"""What the command does before torch is there: Ctrl-C ends the imports, which take seconds, without a traceback, and
tensors from 2 MB on get huge pages, which torch decides with its first one.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

__all__: list[str] = []


def _show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    """Show an exception that nobody has handled, unless it is Ctrl-C."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, value, traceback)


_script = Path(sys.argv[0]).absolute()
_is_command = _script.stem == "wnseq" or sys.orig_argv[1:3] == ["-m", "wnseq"]
if _is_command:
    sys.excepthook = _show
if (_is_command or _script.parent.name == "recipes") and Path("/sys/kernel/mm/transparent_hugepage").exists():
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # it asks Linux by madvise
