"""Tokenizers: text to token ids and back, by words, subwords, characters or bytes."""

import codecs
import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from wnseq._checksums import CheckedFile
from wnseq._files import atomic_write
from wnseq.data.text.words import BLANK, word_splitter
from wnseq.errors import reading

KINDS = ("word", "subword", "bpe", "char", "byte")
UNKNOWN = "<unk>"
LINE_END = "<eos>"
SPACE = "▁"  # sentencepiece's sign for a space; decoding would turn one in the text into a space
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(ABC):
    """Text to token ids and back.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.decode(tokenizer.encode("Grüße"))
        'Grüße'
        >>> list(tokenizer.stream(tokenizer.encode("ü")))
        ['ü']
    """

    kind: ClassVar[str]  # "word", "subword", "char" or "byte"
    start: int  # the id before the first token of a text: the end of a line
    unknown: int | None = None  # the id of everything outside the vocabulary; None: nothing is outside

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; a text cut after a line has the ids of its two pieces."""

    @abstractmethod
    def stream(self, ids: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the text of ids as they come, a character with its last byte; ``after`` is the text that they continue.

        The text and what is yielded are then one text: words are kept apart.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return plain types for ``from_state``, which load with ``weights_only=True``."""

    def spelling(self, text: str) -> tuple[int, int]:
        """Return how many tokens of a text are no entries, and the bytes that spell them; a word ends in one more."""
        return 0, 0

    @property
    def keeps_text(self) -> bool:
        """Return True if a text of known tokens is spelt by its ids, but for runs of white space."""
        return True

    def names(self) -> list[str]:
        """Return the name of each entry in the vocabulary, by id."""
        return [self.decode((index,)) for index in range(len(self))]

    def check_same(self, data: "Tokenizer") -> None:
        """Check that the data of a model with this tokenizer has the same.

        Raises:
            ValueError: Its tokens mean something else.
        """
        if self.sha256 != data.sha256:
            raise ValueError(
                f"the checkpoint has a {self.kind} tokenizer of {len(self):,} entries (sha256 {self.sha256[:12]}), the "
                f"data a {data.kind} tokenizer of {len(data):,} ({data.sha256[:12]}); leave --data.tokenizer out, or "
                "give it the checkpoint's path, to encode the data with the same"
            )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        return "".join(self.stream(ids))

    @cached_property
    def sha256(self) -> str:
        """Hash of the state: equal exactly where every text has the same ids."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True, default=bytes.hex).encode()).hexdigest()

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Tokenizer":
        """Return the tokenizer whose ``state`` this is.

        Raises:
            ValueError: The state is not one.
        """
        try:
            match state["kind"]:
                case "word":
                    return WordTokenizer(state["tokens"], state.get("words", BLANK))
                case "char":
                    return CharTokenizer(state["tokens"])
                case "byte":
                    return ByteTokenizer()
                case "subword":
                    return SubwordTokenizer(state["model"])
                case kind:
                    raise ValueError(f"This tokenizer is of kind {kind!r}, which is none of word, subword, char, byte.")
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"This is not the state of a tokenizer: {type(error).__name__} {error} while it was read."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the state to a JSON file, bytes in hexadecimal digits."""
        with atomic_write(Path(path)) as file:
            file.write(json.dumps(self.state(), default=bytes.hex).encode())

    @staticmethod
    def from_file(path: str | Path) -> "Tokenizer":
        """Return the tokenizer of a file that :meth:`save` wrote; raise ValueError for any other."""
        with reading(Path(path), "a file of a tokenizer"):
            state = json.loads(Path(path).read_text("utf-8"))
            return Tokenizer.from_state({k: bytes.fromhex(v) if k == "model" else v for k, v in state.items()})

    @staticmethod
    def from_checkpoint(path: str | Path) -> "Tokenizer":
        """Return the tokenizer in a language model's checkpoint.

        Args:
            path: A ``.ckpt`` file of a recipe.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, no checkpoint, or one without a tokenizer.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint at {path}.")
        with reading(path, "a checkpoint"):
            with CheckedFile(path) as file:  # of everything but the tensors
                if file.damage:
                    raise ValueError(file.damage)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        about = checkpoint.get("wnseq") if isinstance(checkpoint, dict) else None
        state = about.get("tokenizer") if isinstance(about, dict) else None
        if not isinstance(state, dict):
            raise ValueError(
                f"{path} is a checkpoint, but holds no tokenizer of wnseq: it was not written by a language model "
                "recipe. Name a kind (word, subword, bpe, char, byte) to make one from the corpus."
            )
        with reading(path, "a checkpoint with a tokenizer"):
            return Tokenizer.from_state(state)

    @staticmethod
    def from_torchtext(vocabulary: Any) -> "WordTokenizer":
        """Return a tokenizer with the words of a torchtext vocabulary, and ``<eos>`` at the end if it is missing.

        Args:
            vocabulary: A ``Vocab`` of torchtext 0.6 (``itos``) or of a later release (``get_itos()``).

        Raises:
            TypeError: It has neither.
            ValueError: It has no ``<unk>``.
        """
        tokens = vocabulary.get_itos() if hasattr(vocabulary, "get_itos") else getattr(vocabulary, "itos", None)
        if tokens is None:
            raise TypeError(
                f"from_torchtext: expected a torchtext vocabulary (with get_itos() or itos), got {type(vocabulary)}."
            )
        return WordTokenizer(tokens if LINE_END in tokens else [*tokens, LINE_END])


class WordTokenizer(Tokenizer):
    """Words, ``<unk>`` for all others and ``<eos>`` for the end of a line.

    Args:
        tokens: The words, ``<unk>`` and ``<eos>`` among them; an id is an index in this list.
        words: What a word is, see :func:`wnseq.data.text.words.word_splitter`.
    """

    kind = "word"

    def __init__(self, tokens: Sequence[str], words: str = BLANK) -> None:
        self.words = words
        self._split = word_splitter(words)
        self.tokens = list(tokens)
        self._ids = _numbered(self.tokens)
        for needed in (UNKNOWN, LINE_END):
            if needed not in self._ids:
                raise ValueError(f"A word vocabulary needs the entry {needed}, which this one of {len(self)} lacks.")
        self.unknown: int = self._ids[UNKNOWN]
        self.start = self._ids[LINE_END]

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words, and of ``<eos>`` for each newline.

        Raises:
            ValueError: The text has the word ``<eos>``, which could not be told from a line's end.
        """
        ids, get, unknown = [], self._ids.get, self.unknown
        for line in text.split("\n"):
            ids += [get(word, unknown) for word in self._split(line)]
            ids.append(self.start)
        if LINE_END in text and LINE_END in text.split():
            raise ValueError(
                f"The text has the word {LINE_END}, which is the entry for a line's end in a word vocabulary. Replace "
                f"it by line ends or remove it, e.g. by `sed 's/{LINE_END}//g'`, or choose another tokenizer."
            )
        return ids[:-1]  # the last line has no newline

    def spelling(self, text: str) -> tuple[int, int]:
        """Return the number of the unknown words, and their bytes, each with one that ends it."""
        sizes = [len(w.encode()) + 1 for line in text.split("\n") for w in self._split(line) if w not in self._ids]
        return len(sizes), sum(sizes)

    @property
    def keeps_text(self) -> bool:
        """Return True if words end at blanks alone; else spaces, and with some words capitals, are lost."""
        return self.words == BLANK

    def stream(self, ids: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the words, with a space between two of a line."""
        space = " " if after and not after[-1].isspace() else ""
        for index in ids:
            if index == self.start:
                yield "\n"
                space = ""
            else:
                yield space + self.tokens[index]
                space = " "

    def names(self) -> list[str]:
        """Return the words."""
        return self.tokens

    def state(self) -> dict[str, Any]:
        """Return the kind, the words, and what a word is unless they end at blanks."""
        return {"kind": self.kind, "tokens": self.tokens} | ({} if self.words == BLANK else {"words": self.words})


class CharTokenizer(Tokenizer):
    """Characters, and ``<unk>`` for those outside the vocabulary.

    Args:
        tokens: ``<unk>`` and then the characters; an id is an index in this list.
    """

    kind = "char"
    unknown = 0

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self._ids = _numbered(self.tokens)
        if self.tokens[:1] != [UNKNOWN] or any(len(token) != 1 for token in self.tokens[1:]):
            raise ValueError("A char vocabulary is <unk> followed by single characters, which this list is not.")
        self.start = self._ids.get("\n", self.unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return one id per character."""
        get = self._ids.get
        return [get(character, 0) for character in text]

    def spelling(self, text: str) -> tuple[int, int]:
        """Return the number of the unknown characters, and their bytes."""
        sizes = [len(character.encode()) for character in text if character not in self._ids]
        return len(sizes), sum(sizes)

    def stream(self, ids: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the characters; U+FFFD for the unknown one."""
        return (self.tokens[index] if index else REPLACEMENT for index in ids)

    def names(self) -> list[str]:
        """Return the characters."""
        return self.tokens

    def state(self) -> dict[str, Any]:
        """Return the kind and the characters."""
        return {"kind": self.kind, "tokens": self.tokens}


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8: without training, and without loss."""

    kind = "byte"
    start = ord("\n")

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text in UTF-8."""
        return list(text.encode())

    def stream(self, ids: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield each character with its last byte."""
        return _characters(bytes((index,)) for index in ids)

    def state(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": self.kind}


class SubwordTokenizer(Tokenizer):
    """Pieces of words, trained by sentencepiece; characters outside them become bytes, so that nothing is lost.

    Args:
        model: A serialised sentencepiece model with byte fallback and a newline piece, as
            ``train_tokenizer`` makes.
    """

    kind = "subword"

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        if not isinstance(model, bytes | bytearray):  # bytes(10**12) would be as many zeros
            raise TypeError(
                f"A subword tokenizer needs the bytes of a sentencepiece model, got a {type(model).__name__}."
            )
        self.model = bytes(model)
        try:
            self._processor = SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise ValueError("A subword tokenizer needs a sentencepiece model; these bytes are not one.") from error
        # Decoded here: sentencepiece does not decode incrementally.
        self._bytes = [self._piece_bytes(index) for index in range(len(self))]
        self.start = self._processor.piece_to_id("\n")
        if self.start == self._processor.unk_id() or not self._processor.is_byte(self._processor.piece_to_id("<0x00>")):
            raise ValueError(
                "This sentencepiece model has no newline piece or no byte pieces: text would be lost. Train it with "
                "user_defined_symbols='\\n' and byte_fallback=True."
            )
        self._space = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces."""
        first, *others = text.split(SPACE)
        ids: list[int] = self._processor.encode(first)
        for other in others:
            ids += self._space + self._processor.encode(other)
        return ids

    def stream(self, ids: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the pieces, a character that is bytes with its last one."""
        return _characters(self._bytes[index] for index in ids)

    def names(self) -> list[str]:
        """Return the pieces, a space in them as sentencepiece writes it, bytes as ``<0x41>``."""
        return [self._processor.id_to_piece(index) for index in range(len(self))]

    def state(self) -> dict[str, Any]:
        """Return the kind and the model's bytes."""
        return {"kind": self.kind, "model": self.model}

    def _piece_bytes(self, index: int) -> bytes:
        piece: str = self._processor.id_to_piece(index)
        if self._processor.is_byte(index):
            return bytes((int(piece[1:-1], 16),))
        if self._processor.is_unknown(index):
            return REPLACEMENT.encode()
        return piece.replace(SPACE, " ").encode()


def _numbered(tokens: list[str]) -> dict[str, int]:
    """Return the id of each entry, if each is a string and there once."""
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise ValueError(
                f"A vocabulary is a list of strings; its entry {index} has the type {type(token).__name__}."
            )
        if ids.setdefault(token, index) != index:
            raise ValueError(f"A vocabulary has each entry once; {token!r} is entry {ids[token]} and {index}.")
    return ids


def _characters(data: Iterable[bytes]) -> Iterator[str]:
    """Yield text from bytes as they come, without unfinished characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for block in data:
        if text := decoder.decode(block):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
