"""Small files of JSON that are whole or absent."""

import json
from pathlib import Path
from typing import Any

from wnseq._files import atomic_write

__all__ = ["read_json", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write a value; the file appears under its name when it is on the disk."""
    with atomic_write(path) as file:
        file.write(json.dumps(value).encode())


def read_json(path: Path) -> Any:
    """Return the value in a file; None if there is no such file. A damaged one is removed, and that is printed."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        print(f"{path} is damaged, and made again", flush=True)
        path.unlink()
        return None
