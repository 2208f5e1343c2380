"""Options of a text: their checks, those in a checkpoint, and the size by which others are chosen."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wnseq.data._position import settings_of_part
from wnseq.data.text.bptt import BLANK_LINES_UNSEEN, count_documents
from wnseq.data.text.corpora import fetch_corpus, is_known, open_corpus
from wnseq.data.text.decoding import HEAD
from wnseq.data.text.encoding import Ids
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import KINDS, Tokenizer
from wnseq.data.text.tokenizer_training import SUBWORDS

CORPUS = ("corpus", "val", "test", "cut", "encoding", "field", "root")  # options that say which text it is
BATCHES = (
    "backward", "batch_size", "bptt", "documents", "eval_batch_size", "eval_bptt", "eval_reset_state",
    "partial_shuffle", "random_bptt", "reset_state", "seed",
)  # fmt: skip
MEASURED = {"validate": "val", "test": "test"}  # subcommand or stage → part


def saved_options(data: Any) -> dict[str, Any]:
    """Return the options of a data module by which the same batches are found again, paths in full."""
    names = {"val", "test", "root"} if is_known(data.corpus) else {"corpus", "val", "test", "root"}
    return paths_in_full({name: getattr(data, name) for name in (*CORPUS, *BATCHES)}, names)


def paths_in_full(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the options that are not None, those of the given names in full where they are paths of what exists."""

    def in_full(name: str, value: Any) -> Any:
        path = Path(value).expanduser() if name in names else None
        return value if path is None or not path.exists() else str(path.absolute())

    return {name: in_full(name, value) for name, value in options.items() if value is not None}


def options_from_checkpoint(saved: Mapping[str, Any], given: Collection[str], subcommand: str) -> dict[str, Any]:
    """Return which of a checkpoint's options become the defaults of a command.

    Where the command names the part that it measures, that alone is read, as the command says; the corpus stays the
    checkpoint's, whose other parts :func:`training_options` finds again for what adapts or is tuned.

    Args:
        saved: What :func:`saved_options` returned.
        given: Options that the command has by itself: another corpus brings its own encoding, say.
        subcommand: fit, validate, test or predict, which needs no corpus.

    Raises:
        FileNotFoundError: The checkpoint's corpus is not there any more, and would be read.
    """
    if subcommand == "predict":
        return {}
    alone = MEASURED.get(subcommand) in given
    if "corpus" in given:
        own: Collection[str] = CORPUS
    elif alone:
        own = set(CORPUS) - {"corpus", "root"}
    else:
        own = ("encoding", "field") if "test" in given else ()
    options = {name: value for name, value in saved.items() if name not in own}
    path = Path(options.get("corpus", ""))
    if not alone and path.is_absolute() and not path.exists():
        raise FileNotFoundError(
            f"the corpus of the checkpoint, {path}, is not there any more: name a text by --data.corpus PATH, or one "
            "that is measured as a whole by --data.test PATH"
        )
    return options


def training_options(data: Any, saved: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the options of a data module that reads all parts of the text that a checkpoint was trained on.

    Args:
        data: That of an evaluation. If it measures a text by its path, and has the checkpoint's corpus beside it, that
            corpus is found and cut as it was in training; a validation part of its own stays.
        saved: What :func:`saved_options` returned in training; empty if that is not known.
        part: What is measured: ``val`` or ``test``.

    Raises:
        FileNotFoundError: The checkpoint's corpus is not there any more.
    """
    options = saved_options(data)
    if part not in data.given or options["corpus"] != saved.get("corpus"):
        return options
    if not is_known(path := options["corpus"]) and not Path(path).exists():
        raise FileNotFoundError(
            f"the corpus of the checkpoint, {path}, is not there any more: dynamic evaluation and evaluation.tune read "
            "its training and its validation part. Name another one by --data.corpus PATH beside the text that is "
            "measured, or leave both out"
        )
    own = {"corpus", "root", *BATCHES, *(set(data.given) - {part})}
    text = {name: value for name, value in saved.items() if name in set(CORPUS) - own}
    return text | {name: value for name, value in options.items() if name in own}


def estimate_tokens(data: Any) -> tuple[int, int]:
    """Return about how many tokens a data module's training part has, and how many entries its tokenizer.

    Both are told by the size and the beginning of the text. A standard corpus is downloaded.
    """
    fetch_corpus(data.corpus, data.root)
    options: dict[str, Any] = {"field": data.field, "cut": data.cut, "given": data.given}
    train = open_corpus(data.corpus, data.root, data.encoding, **options).parts["train"]
    head = train.slice(0, train.character_boundary(min(HEAD, train.size))).read().decode("utf-8", "replace")
    size, kind = len(head.encode()), data.tokenizer_source
    if kind in KINDS:
        words, characters = head.split(), len(head)
        of_subwords = round(max(characters / 3, size / 6)), SUBWORDS  # of an alphabet, or of Chinese
        tokens, entries = {
            "word": (len(words) + head.count("\n"), len({*words})),
            "char": (characters, len({*head})),
            "byte": (size, 256),
        }.get(kind, of_subwords)
    else:
        tokenizer = Tokenizer.from_checkpoint(kind)
        tokens, entries = len(tokenizer.encode(head)), len(tokenizer)
    return round(tokens * train.size / max(1, size)), data.vocabulary_size or entries


def evaluation_settings(data: Any) -> dict[str, Any]:
    """Return the options, beside the text, on which the loss of a validation depends."""
    size = "eval_bptt" if data.eval_reset_state else "eval_batch_size"  # the other one changes the speed alone
    settings = {"eval_reset_state": data.eval_reset_state, size: getattr(data, size)}
    return settings | settings_of_part(data, "eval_bptt", "eval_batch_size")


def check_documents(corpus: str, tokenizer: Tokenizer, train: Ids | None, parts: Mapping[str, Text]) -> None:
    """Check that documents can be told apart.

    A text that is measured may be a single one.

    Args:
        corpus: Name of the corpus.
        tokenizer: The tokenizer.
        train: The training part, where there is training.
        parts: The text of each part that is read.

    Raises:
        ValueError: The tokenizer has no entry for the end of a line; a part has blank lines that end in a carriage
            return, which is an entry of its own to all tokenizers but those of words; or the training part has none.
    """
    for part in parts if tokenizer.kind != "word" else ():
        if _has_returns(parts[part]):
            raise ValueError(
                f"The {part} part of corpus {corpus!r} has lines that end in a carriage return, between which no blank "
                r"line is seen: convert it, e.g. by `sed 's/\r$//' in.txt > out.txt`, or leave out documents."
            )
    if tokenizer.start == tokenizer.unknown:
        raise ValueError(
            "documents end in a blank line, and the tokenizer has no entry for the end of a line, since its training "
            "text had none; leave out documents"
        )
    if train is not None and count_documents(train, tokenizer.start) < 2:
        raise ValueError(
            f"The train part of corpus {corpus!r} has no blank line between documents; leave out documents, or "
            "separate them by an empty line each."
        )


def _has_returns(text: Text) -> bool:
    """Return True if a blank line of a text ends in a carriage return."""
    before = b""
    for block in text.blocks():
        joined = before + block
        if any(line.encode() in joined for line in BLANK_LINES_UNSEEN):
            return True
        before = joined[-3:]
    return False


def check_flags(owner: str, **flags: Any) -> None:
    """Check that options are true or false.

    Raises:
        TypeError: One is neither.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{owner}: {name} must be true or false, got {value!r}.")


def check_integer(owner: str, name: str, value: int, least: int) -> None:
    """Check that an option is an integer of at least so much.

    Raises:
        TypeError: It is no integer.
        ValueError: It is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {value}.")


def check_tokenizer(owner: str, source: str, size: int | None, words: str, min_count: int) -> None:
    """Check that there is such a tokenizer, and that the other options suit it.

    Raises:
        ValueError: There is none, an option does nothing with it, or that of a checkpoint has another size.
        FileNotFoundError: It is the path of a checkpoint that is not there.
    """
    if source not in KINDS and not Path(source).expanduser().is_file():
        if "/" in source or Path(source).suffix:
            raise FileNotFoundError(f"{owner}: there is no checkpoint at {source!r} to take a tokenizer from.")
        guess = difflib.get_close_matches(source.lower(), KINDS, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(
            f"{owner}: tokenizer must be {', '.join(KINDS)} or the path of a checkpoint, got {source!r}.{hint}"
        )
    if (words != "blank" and source != "word") or (min_count > 1 and source not in ("word", "char")):
        option = "words" if words != "blank" else "min_count"
        raise ValueError(f"{owner}: {option} does nothing with the tokenizer {source!r}. Leave it out.")
    if size is None:
        return
    least = {"word": 3, "char": 2, "subword": 300, "bpe": 300}.get(source)
    if source not in KINDS:  # a resumed run has the size that its tokenizer was trained with
        if (entries := len(Tokenizer.from_checkpoint(source))) != size:
            raise ValueError(
                f"{owner}: tokenizer {source!r} has a size of its own, {entries} entries, and vocabulary_size is "
                f"{size}. Leave vocabulary_size out, or give null where a preset has it."
            )
        return
    if least is None:
        raise ValueError(f"{owner}: tokenizer {source!r} has a size of its own. Leave vocabulary_size out.")
    check_integer(owner, "vocabulary_size", size, least)
