"""The folders of data and of caches."""

import os
from pathlib import Path

import pooch


def data_root(root: str | None = None) -> Path:
    """Return the folder of the standard corpora and image sets: the argument, else ``$WNSEQ_DATA``, else ``./data``."""
    return Path(root or os.environ.get("WNSEQ_DATA") or "data").expanduser()


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``$WNSEQ_CACHE``, else the user's cache folder.

    It is not in the data folder, which is often shared and read-only.
    """
    chosen = os.environ.get("WNSEQ_CACHE")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("wnseq"))
