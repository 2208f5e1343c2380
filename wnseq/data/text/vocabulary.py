"""Vocabularies of other programs: which word each row of their embedding is of."""

import collections
import contextlib
import warnings
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wnseq._files import find_damage
from wnseq.data.text.tokenizer import Tokenizer
from wnseq.errors import reading

EXPECTED = (
    "Expected UTF-8 text with one word a line, or what torch.save wrote of a torchtext 0.6 vocabulary, a list of "
    "words, or their places by word."
)
BINARY = (b"PK", b"\x80")  # a zip of torch.save, a pickle


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the words of a vocabulary, in their order.

    Args:
        path: UTF-8 text with one word a line, or a file that ``torch.save`` wrote: a ``Vocab`` of torchtext 0.6, a list
            of words, or their places by word.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is none of these, or a word is in it twice.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no vocabulary at {path}")
    content = path.read_bytes()
    with reading(path, "a vocabulary", EXPECTED):
        words = _from_torch(path) if content.startswith(BINARY) else content.decode().removesuffix("\n").split("\n")
    seen: set[str] = set()
    for number, word in enumerate(words, 1):
        if len(word.split()) > 1:
            raise ValueError(f"{path}: expected one word a line, got {word!r} in line {number}")
        if word in seen:
            raise ValueError(f"{path}: each word has one row, and {word!r} in line {number} is there already")
        seen.add(word)
    return words


def _from_torch(path: Path) -> list[str]:
    if damage := find_damage(path):
        raise ValueError(damage)
    allowed: list[Any] = [collections.Counter]
    with contextlib.suppress(ImportError, OSError):
        from torchtext.vocab import Vocab

        allowed.append(Vocab)
    with torch.serialization.safe_globals(allowed):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    words = getattr(loaded, "itos", loaded)
    if isinstance(words, dict):
        places = sorted(words, key=lambda word: words[word])
        if [words[word] for word in places] != [*range(len(places))]:
            raise ValueError("the places are not 0, 1, 2, …")
        words = places
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"a {type(words).__name__} is no list of words")
    return words


def match_rows(rows: torch.Tensor, words: Sequence[str], fresh: torch.Tensor, tokens: Sequence[str]) -> torch.Tensor:
    """Return the rows of ``words`` in the order of ``tokens``; a token that is none of them keeps its fresh row.

    Shape:
        - rows: ``(len(words), *)``
        - fresh, output: ``(len(tokens), *)``
    """
    place = {word: index for index, word in enumerate(words)}
    found = torch.tensor([place.get(token, -1) for token in tokens])
    matched = fresh.clone()
    matched[found >= 0] = rows[found[found >= 0]].to(fresh)
    return matched


def reorder_rows(
    weights: MutableMapping[str, torch.Tensor],
    names: Collection[str],
    vocabulary: str | Path,
    fresh: Mapping[str, torch.Tensor],
    tokens: Sequence[str],
) -> int:
    """Bring the rows of weights of another vocabulary into the order of ``tokens``, in place.

    Args:
        weights: State dict of the other program; a prefix ``network.`` of its keys is passed over.
        names: Keys of the weights that have a row for each word.
        vocabulary: File with the words of the rows, as :func:`read_vocabulary` takes it.
        fresh: State dict whose rows the tokens without a word keep.
        tokens: Tokens of the new rows.

    Returns:
        How many tokens have a row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no vocabulary, has none of the tokens, or not as many words as a weight has rows.
    """
    words = read_vocabulary(vocabulary)
    known = len(set(words) & set(tokens))
    if not known:
        raise ValueError(f"{vocabulary} has none of the tokenizer's {len(tokens):,} entries")
    for name in weights:
        own = name.removeprefix("network.")
        if own in names:
            if len(weights[name]) != len(words):
                raise ValueError(f"{vocabulary} has {len(words):,} words, and {name} {len(weights[name]):,} rows")
            weights[name] = match_rows(weights[name], words, fresh[own], tokens)
    return known


def match_tokens(
    tokenizer: Tokenizer,
    source: str,
    loaded: MutableMapping[str, Any],
    vocabulary: str | None,
    names: Collection[str],
    fresh: Mapping[str, torch.Tensor],
) -> str:
    """Bring the rows of a checkpoint's weights into the order of a tokenizer, in place, or check that they are in it.

    Args:
        tokenizer: Tokenizer of the data.
        source: Path of the checkpoint, for the messages.
        loaded: Its content: a checkpoint of wnseq, which has a tokenizer, or a plain state dict.
        vocabulary: File with the words of a plain state dict, as :func:`read_vocabulary` takes it.
        names: Keys of the weights that have a row for each token.
        fresh: State dict whose rows the tokens without a word keep.

    Returns:
        A line about how many tokens have a row, for the screen; empty where there is nothing to say.

    Raises:
        ValueError: The checkpoint has another tokenizer, or the vocabulary does not suit it.
    """
    if "wnseq" in loaded:
        if vocabulary is not None:
            raise ValueError(f"{source} has a tokenizer of its own: leave init_vocabulary out")
        Tokenizer.from_state(loaded["wnseq"]["tokenizer"]).check_same(tokenizer)
        return ""
    if vocabulary is None:
        if tokenizer.kind != "byte":
            warnings.warn(
                f"{source} doesn't say which tokens its rows are: they are taken to be the tokenizer's "
                f"{len(tokenizer):,} in their order. If they are not, give --model.init_vocabulary",
                stacklevel=2,
            )
        return ""
    tokens = getattr(tokenizer, "tokens", None)
    if tokens is None:
        raise ValueError(f"init_vocabulary has words, and the tokenizer is of kind {tokenizer.kind}")
    known = reorder_rows(loaded.get("state_dict", loaded), names, vocabulary, fresh, tokens)
    return f"{known:,} of {len(tokens):,} tokens have a row in {source}; the others start fresh"
