"""What a word is: blank-separated, apart from punctuation, or as a tokenizer of torchtext splits."""

import contextlib
import functools
import io
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

BLANK = "blank"
Words = Literal["blank", "punctuation", "basic_english", "moses", "toktok", "spacy"]


def word_splitter(words: str) -> Callable[[str], list[str]]:
    """Return a function that splits a line into words.

    Args:
        words: ``blank``: at white space; ``punctuation``: signs are words of their own, in any language; or a tokenizer
            of torchtext's ``get_tokenizer``: ``basic_english``, which makes all letters small, ``moses``, ``toktok`` or
            ``spacy``.

    Raises:
        ValueError: It is none of these.
        ImportError: The package of the tokenizer is missing.

    Example:
        >>> word_splitter("punctuation")("Don't stop, said the text.")
        ["Don't", 'stop', ',', 'said', 'the', 'text', '.']
    """
    if words == BLANK:
        return str.split
    if words == "punctuation":
        return _words_and_signs().findall
    if words not in get_args(Words):
        raise ValueError(f"words must be one of {', '.join(get_args(Words))}, got {words!r}.")
    try:
        from torchtext.data.utils import get_tokenizer

        with contextlib.redirect_stdout(io.StringIO()):  # torchtext prints before it raises
            split: Callable[[str], list[str]] = get_tokenizer(words)
    except (ImportError, OSError, AttributeError) as error:
        package = {"moses": "sacremoses", "toktok": "nltk", "spacy": "spacy"}.get(words, "torchtext==0.6.*")
        raise ImportError(
            f"words {words!r} need a package that failed to load ({error}): pip install {package}"
        ) from error
    return split


@functools.cache
def _words_and_signs() -> re.Pattern[str]:
    """Return what matches <unk> as a text writes it, a word with apostrophes inside, and every other sign by itself.

    Combining marks, as the vowel signs of Hindi are, and the joiners of Persian belong to what they follow.
    """
    marks = [*filter(_is_mark, map(chr, range(sys.maxunicode + 1)))]
    mark = rf"(?:(?=[{marks[0]}-{chr(sys.maxunicode)}])[{''.join(marks)}])"  # the first test spares others the long one
    word = rf"\w+(?:{mark}+\w*)*"
    return re.compile(rf"<unk>|{word}(?:['\u2019]{word})*|[^\w\s]{mark}*")


def _is_mark(character: str) -> bool:
    """Return True if a character combines with the one before it."""
    return unicodedata.category(character).startswith("M") or character in "\u200c\u200d"
