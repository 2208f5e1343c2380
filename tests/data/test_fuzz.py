"""Damaged files: each reader returns or raises what its docstring names. 60 inputs each, 10,000 by ``-m slow``."""

import contextlib
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wnseq.data._download import unpack
from wnseq.data.images import datasets
from wnseq.data.images.formats import read_amat, read_cifar, read_idx
from wnseq.data.images.own import read_own
from wnseq.data.images.transforms import Preprocess, cached_whitening
from wnseq.data.text.corpora import open_corpus
from wnseq.data.text.encoding import encode
from wnseq.data.text.stream import Text
from wnseq.data.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer
from wnseq.data.text.vocabulary import read_vocabulary
from wnseq.training.checkpoint_files import load, load_run_checkpoint, load_weights

DOCUMENTED = (ValueError, FileNotFoundError)
FEW, MANY = 60, 10_000
COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
PROSE = "the cat sat\non the <unk> mat: naïve, 漢字\n\n" * 20


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with some bytes changed, removed or added, or cut short; or other bytes altogether."""
    kind = draw(st.sampled_from(["change", "change", "change", "remove", "add", "cut", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=200))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 8))):
        # headers are at the ends
        place = draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 63), st.integers(-64, -1))) % len(whole)
        if kind == "change":
            content[min(place, len(content) - 1)] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 127, 255])))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 9))]
            if not content:
                break
        elif kind == "add":
            content[place:place] = draw(st.binary(min_size=1, max_size=9))
    return bytes(content[: draw(st.integers(0, len(content)))] if kind == "cut" else content)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in (*datasets.CIFAR_TRAIN, datasets.CIFAR_TEST):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            entry.size = 99
            archive.addfile(entry, io.BytesIO(bytes(99)))
    return buffer.getvalue()


def checkpoint() -> dict[str, Any]:
    state = {f"network.{name}": value for name, value in torch.nn.Linear(3, 2).state_dict().items()}
    return {"state_dict": state, "loops": {}, "hyper_parameters": {"width": 2}, "wnseq": {"recipe": "toy"}}


def read_corpus(path: Path, encoding: str | None = None) -> None:
    for part in open_corpus(str(path), encoding=encoding).parts.values():
        for _ in part.chunks():
            pass


def unpack_untarred(path: Path) -> None:
    datasets._unpack_cifar(path, path.parent / "out")


WORDS = WordTokenizer(["<unk>", "<eos>", *(f"word{index}" for index in range(50))])
IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, *range(18)])
READERS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "words": (lambda: saved({"wnseq": {"tokenizer": WORDS.state()}}), Tokenizer.from_checkpoint),
    "characters": (
        lambda: saved({"wnseq": {"tokenizer": CharTokenizer(["<unk>", *"abcdef\n"]).state()}}),
        Tokenizer.from_checkpoint,
    ),
    "subwords": (
        lambda: saved({"wnseq": {"tokenizer": train_tokenizer("subword", Text.of(PROSE.encode())).state()}}),
        Tokenizer.from_checkpoint,
    ),
    "checkpoint": (lambda: saved(checkpoint()), load_run_checkpoint),
    "weights": (
        lambda: saved(checkpoint()),
        lambda path: load_weights(torch.nn.Linear(3, 2), path, load(path), ["width"]),
    ),
    "zip": (lambda: zipped(member=PROSE.encode()), lambda path: unpack(path, "member", path.with_suffix(".out"))),
    "tar": (tarred, unpack_untarred),
    "idx": (lambda: IDX, lambda path: read_idx(path, 3)),
    "idx.gz": (lambda: gzip.compress(IDX, mtime=0), lambda path: read_idx(path, 3)),
    "amat": (lambda: b"0 1 1\n1 0 0\n" * 9, lambda path: read_amat(path, 3)),
    "cifar": (lambda: bytes([3, *bytes(3072)] * 2), read_cifar),
    "text": (lambda: PROSE.encode(), read_corpus),
    "text.gz": (lambda: gzip.compress(PROSE.encode(), mtime=0), read_corpus),
    "text in cp1252": (lambda: "Größe, naïve\n".encode("cp1252") * 20, lambda path: read_corpus(path, "cp1252")),
    "text in utf-16": (lambda: PROSE.encode("utf-16"), lambda path: read_corpus(path, "utf-16")),
}


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(64, dtype=np.uint8).reshape(4, 4, 4), y=np.arange(4))
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "png")
    return buffer.getvalue()


def read_image(path: Path) -> None:
    (path.parent / "set" / "class").mkdir(parents=True, exist_ok=True)
    image = path.parent / "set" / "class" / "image.png"
    image.write_bytes(path.read_bytes())
    try:
        read_own(path.parent / "set")
    except ValueError as error:
        raise ValueError(str(error).replace(str(image), str(path))) from error


READERS["words of another program"] = (lambda: "\n".join(WORDS.tokens).encode(), read_vocabulary)
READERS["vocabulary of another program"] = (lambda: saved(WORDS.tokens), read_vocabulary)
READERS["npz"] = (npz, read_own)
READERS["png"] = (png, read_image)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # ten times faster
    yield tmp_path / "cache"


def fuzz(tmp_path: Path, reader: str, examples: int) -> None:
    make, read = READERS[reader]
    whole = make()
    path = tmp_path / "file.ckpt"
    path.write_bytes(whole)
    read(path)

    @settings(max_examples=examples, **COMMON)
    @given(damaged(whole))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except DOCUMENTED as error:
            assert str(path) in str(error), error

    run()


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(tmp_path: Path, reader: str) -> None:
    fuzz(tmp_path, reader, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS)
def test_many_damaged_files(tmp_path: Path, reader: str) -> None:
    fuzz(tmp_path, reader, MANY)


# ---- states in checkpoints

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9), st.just("<unk>")
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)
TOKENIZER_STATES = st.fixed_dictionaries(
    {"kind": st.one_of(st.sampled_from(["word", "char", "subword", "byte"]), VALUES)},
    optional={"tokens": VALUES, "model": VALUES},
)
PREPROCESS_STATES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("num_values", "offset", "scale", "size", "whitening"), VALUES)
)


def check_states(from_state: Callable[[Any], object], states: st.SearchStrategy[Any], examples: int) -> None:
    @settings(max_examples=examples, **COMMON)
    @given(st.one_of(states, VALUES))
    def run(state: Any) -> None:
        with contextlib.suppress(ValueError):
            from_state(state)

    run()


STATES = {
    "tokenizer": (Tokenizer.from_state, TOKENIZER_STATES),
    "preprocess": (Preprocess.from_state, PREPROCESS_STATES),
}


@pytest.mark.parametrize("what", STATES)
def test_states_that_are_none(what: str) -> None:
    check_states(*STATES[what], FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", STATES)
def test_many_states_that_are_none(what: str) -> None:
    check_states(*STATES[what], MANY)


# ---- caches: what is damaged is made again


def whitened() -> Any:
    return cached_whitening(torch.arange(32.0).view(8, 4), "content").matrix.numpy()


CACHED: dict[str, tuple[str, Callable[[], Any]]] = {
    "vocabulary": ("vocabularies/*.json", lambda: train_tokenizer("word", Text.of(PROSE.encode())).encode(PROSE)),
    "ids": ("tokens/*.bin", lambda: encode(Text.of(PROSE.encode()), ByteTokenizer(), "prose").tokens.tolist()),
    "counts": ("tokens/*.json", lambda: astuple(encode(Text.of(PROSE.encode()), ByteTokenizer(), "prose").counts)),
    "whitening": ("whitening/*.npz", whitened),
}


def check_cache(cache: Path, what: str, examples: int) -> None:
    pattern, read = CACHED[what]
    right = read()
    (path,) = cache.glob(pattern)
    whole = path.read_bytes()

    @settings(max_examples=examples, **COMMON)
    @given(damaged(whole))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        found = read()
        assert np.array_equal(found, right)

    run()


@pytest.mark.parametrize("what", CACHED)
def test_damaged_caches(cache: Path, what: str) -> None:
    check_cache(cache, what, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", CACHED)
def test_many_damaged_caches(cache: Path, what: str) -> None:
    check_cache(cache, what, MANY)
