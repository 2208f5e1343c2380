"""Vocabularies of other models: which token each row of an embedding is of, and from which rows a new token starts."""

import collections
import contextlib
import re
import warnings
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wnseq._checksums import find_damage
from wnseq._rows import carry_weights
from wnseq.data.text.tokenizer import REPLACEMENT, Tokenizer
from wnseq.errors import reading

EXPECTED = (
    "Expected UTF-8 text with one word a line, or what torch.save wrote of a torchtext 0.6 vocabulary, a list of "
    "words, or their places by word."
)
BINARY = (b"PK", b"\x80")  # a zip of torch.save, a pickle
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")  # sentencepiece's name of a byte


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
        words = _from_torch(path) if content.startswith(BINARY) else _lines(content.decode("utf-8-sig"))
    seen: set[str] = set()
    for number, word in enumerate(words, 1):
        if len(word.split()) > 1:
            raise ValueError(f"{path}: expected one word a line, got {word!r} in line {number}")
        if word in seen:
            raise ValueError(f"{path}: each word has one row, and {word!r} in line {number} is there already")
        seen.add(word)
    return words


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


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
        weights: State dict of the other program, with the network's keys.
        names: Keys of the weights that have a row for each word.
        vocabulary: File with the words of the rows, as :func:`read_vocabulary` takes it.
        fresh: State dict whose rows the tokens without a word keep.
        tokens: Tokens of the new rows.

    Returns:
        How many tokens have a row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no vocabulary, has none of the tokens, or not as many words as a weight has rows; or
            the weights have a g and the fresh ones none.
    """
    words = read_vocabulary(vocabulary)
    known = len(set(words) & set(tokens))
    if not known:
        raise ValueError(f"{vocabulary} has none of the tokenizer's {len(tokens):,} entries")
    for name in _of_rows(weights, names):
        if len(weights[name]) != len(words):
            raise ValueError(f"{vocabulary} has {len(words):,} words, and {name} {len(weights[name]):,} rows")
        if name not in fresh:
            raise ValueError(f"{name} is of a normalised embedding, the model's is plain: set embedding_norm weight")
        weights[name] = match_rows(weights[name], words, fresh[name], tokens)
    return known


def _of_rows(weights: Mapping[str, torch.Tensor], names: Collection[str]) -> list[str]:
    """Return which of the names a state dict has.

    Raises:
        ValueError: It has none.
    """
    found = [name for name in names if name in weights]
    if not found:
        raise ValueError(f"the file has no weight with a row for each token: none of {', '.join(sorted(names))}")
    return found


def find_sources(old: Tokenizer, new: Tokenizer) -> tuple[list[list[int]], int]:
    """Return the entries of an old vocabulary that each entry of a new one starts from.

    They are the entry of the same name, where both are of one kind, or of the same byte of a character; else those that
    the old tokenizer makes of its text, without the unknown one; or none.

    Returns:
        The ids of the old entries for each new one, and how many new ones have one of their name.
    """
    places = {name: index for index, name in enumerate(old.names())} if old.kind == new.kind else {}
    before = " " if new.kind == "word" and old.kind == "subword" else ""  # its pieces begin with the space
    bytes_before, byte_names = _bytes(old), {index: byte for byte, index in _bytes(new).items()}
    sources: list[list[int]] = []
    for index, name in enumerate(new.names()):
        if index == new.unknown:
            sources.append([] if old.unknown is None else [old.unknown])
        elif name in places:
            sources.append([places[name]])
        else:
            text = new.decode((index,))
            if REPLACEMENT in text:  # a part of a character
                known = [bytes_before[byte_names[index]]] if byte_names.get(index) in bytes_before else []
            else:
                known = old.encode(text if text.isspace() else before + text)
            sources.append([each for each in known if each != old.unknown])
    return sources, sum(name in places for name in new.names())


def _bytes(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the ids of the entries that stand for one byte, by that byte."""
    if tokenizer.kind == "byte":
        return {byte: byte for byte in range(len(tokenizer))}
    names = tokenizer.names() if tokenizer.kind == "subword" else []
    return {int(found[1], 16): index for index, name in enumerate(names) if (found := BYTE_PIECE.fullmatch(name))}


def _carry(tokenizer: Tokenizer, source: str, loaded: MutableMapping[str, Any], names: Collection[str]) -> str:
    """Bring the rows of a checkpoint's weights from its tokenizer to another one, in place; return a line about it."""
    state = loaded["wnseq"].get("tokenizer")
    if state is None:
        raise ValueError(f"{source} is of the recipe {loaded['wnseq'].get('recipe')}, which has no tokenizer")
    old = Tokenizer.from_state(state)
    if old.sha256 == tokenizer.sha256:
        return ""
    sources, named = find_sources(old, tokenizer)
    found = sum(map(bool, sources))
    if not any(ids for index, ids in enumerate(sources) if index != tokenizer.unknown):
        raise ValueError(
            f"none of the {len(tokenizer):,} entries of the {tokenizer.kind} tokenizer can be spelt by the {old.kind} "
            f"tokenizer of {source}: train from the start, without init_from"
        )
    carry_weights(loaded["state_dict"], _of_rows(loaded["state_dict"], names), sources)
    return (
        f"another vocabulary than that of {source}: {named:,} of {len(tokenizer):,} tokens are in both and keep their "
        f"rows, {found - named:,} start with the mean of their old pieces, {len(tokenizer) - found:,} with the mean row"
    )


def match_tokens(
    tokenizer: Tokenizer,
    source: str,
    loaded: MutableMapping[str, Any],
    vocabulary: str | None,
    names: Collection[str],
    fresh: Mapping[str, torch.Tensor],
) -> str:
    """Bring the rows of a checkpoint's weights into the order of a tokenizer, in place.

    A checkpoint of wnseq has a tokenizer. Where it is another one, each token starts from the row of the same token,
    else from the mean of the rows of its pieces, else from the mean of all rows (Howard & Ruder 2018).

    Args:
        tokenizer: Tokenizer of the data.
        source: Path of the checkpoint, for the messages.
        loaded: Its content, under ``state_dict`` the weights; that of a checkpoint of wnseq has a tokenizer too.
        vocabulary: File with the words of a plain state dict, as :func:`read_vocabulary` takes it.
        names: Keys of the weights that have a row for each token.
        fresh: State dict whose rows the tokens without a word keep.

    Returns:
        A line about how many tokens have a row, for the screen; empty where there is nothing to say.

    Raises:
        ValueError: The vocabulary does not suit the checkpoint, or the tokenizers have nothing in common.
    """
    if "wnseq" in loaded:
        if vocabulary is not None:
            raise ValueError(f"{source} has a tokenizer of its own: leave init_vocabulary out")
        return _carry(tokenizer, source, loaded, names)
    if vocabulary is None:
        if tokenizer.kind != "byte":
            warnings.warn(
                f"{source} doesn't say which tokens its rows are: they are taken to be the tokenizer's "
                f"{len(tokenizer):,} in their order. If they are not, start a language_model from it with "
                "--model.init_vocabulary",
                stacklevel=2,
            )
        return ""
    tokens = getattr(tokenizer, "tokens", None)
    if tokens is None:
        raise ValueError(f"init_vocabulary has words, and the tokenizer is of kind {tokenizer.kind}")
    known = reorder_rows(loaded["state_dict"], names, vocabulary, fresh, tokens)
    return f"{known:,} of {len(tokens):,} tokens have a row in {source}; the others start fresh"
