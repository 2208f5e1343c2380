"""Checkpoints that are whole or absent, and damage that is noticed."""

import errno
import io
import os
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from lightning.pytorch import LightningModule

from wnseq.data.text import Tokenizer
from wnseq.data.text.vocabulary import read_vocabulary
from wnseq.errors import FileFormatError
from wnseq.training import checkpoint_io
from wnseq.training.checkpoint_files import load
from wnseq.training.checkpoint_io import WholeCheckpointIO, open_checked
from wnseq.training.fine_tuning import CheckedLoading

CHECKPOINT = {"state_dict": {"w": torch.arange(3000.0), "b": torch.ones(7)}, "global_step": 5, "names": ["a"] * 50}


class Model(CheckedLoading, LightningModule):
    """A model that is never built."""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def places(path: Path) -> list[int]:
    """Return the place of every byte of every record: of the pickle and of the tensors."""
    found: list[int] = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            start = info.header_offset + 30 + name + extra
            found += range(start, start + info.file_size)
    return found


def test_a_file_that_was_read_already_is_not_read_twice(whole: Path) -> None:
    plugin, content = WholeCheckpointIO(), {"global_step": 7}
    plugin.give(whole, content)
    assert plugin.load_checkpoint(whole) is content
    assert plugin.load_checkpoint(whole)["global_step"] == 5
    plugin.give(whole, content)
    plugin.save_checkpoint(CHECKPOINT | {"global_step": 6}, whole)
    assert plugin.load_checkpoint(whole)["global_step"] == 6


def test_a_whole_file_is_loaded(whole: Path) -> None:
    with open_checked(whole) as file:
        assert file.read() == whole.read_bytes()
    for loaded in (WholeCheckpointIO().load_checkpoint(whole, weights_only=True), load(whole)):
        assert torch.equal(loaded["state_dict"]["w"], CHECKPOINT["state_dict"]["w"]) and loaded["global_step"] == 5
    assert list(whole.parent.iterdir()) == [whole]


def test_every_flipped_byte_is_noticed(whole: Path) -> None:
    data, draw = whole.read_bytes(), random.Random(0)
    for place in draw.sample(places(whole), 120):
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        whole.write_bytes(damaged)
        for read in (load, WholeCheckpointIO().load_checkpoint, Model.load_from_checkpoint):
            with pytest.raises(FileFormatError, match=r"last\.ckpt can't be read as a checkpoint: it is damaged"):
                read(whole)


def test_every_truncation_is_one_clear_error(whole: Path) -> None:
    data = whole.read_bytes()
    for length in [0, 1, *random.Random(0).sample(range(4, len(data)), 69)]:
        whole.write_bytes(data[:length])
        for read in (load, WholeCheckpointIO().load_checkpoint, Model.load_from_checkpoint):
            with pytest.raises(
                FileFormatError, match=r"last\.ckpt can't be read as a checkpoint: it is (empty|damaged)"
            ):
                read(whole)


def test_a_file_that_fills_the_memory_is_refused(whole: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content if name.endswith("pkl") else bytes(10 * len(content)))
    with pytest.raises(FileFormatError, match=r"it is damaged or made to fill the memory"):
        load(whole)


class Hostile:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "pickle"])
def test_no_reader_of_checkpoints_executes_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path, content = tmp_path / "last.ckpt", {"state_dict": {}, "hyper_parameters": {"width": Hostile()}}
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    readers = (load, WholeCheckpointIO().load_checkpoint, Model.load_from_checkpoint)
    for read in (*readers, Tokenizer.from_checkpoint, read_vocabulary):
        with pytest.raises(FileFormatError, match=r"last\.ckpt can't be read as a"):
            read(path)
    assert not Path("executed").exists()
    torch.load(path, weights_only=False)
    assert Path("executed").exists()


def test_the_error_names_the_newest_whole_checkpoint(whole: Path) -> None:
    for name, time in (("best.ckpt", 2), ("older.ckpt", 1), ("damaged.ckpt", 3)):
        (whole.parent / name).write_bytes(whole.read_bytes()[: 500 if name == "damaged.ckpt" else None])
        os.utime(whole.parent / name, (time, time))
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match=r"The newest whole checkpoint beside it is \S+best\.ckpt\. Python obj"):
        load(whole)


def test_a_full_disk_leaves_the_checkpoint_before_and_says_how_to_go_on(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = whole.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"last\.ckpt could not be written: the disk is full.*--ckpt_path \S+last\.ckpt"):
        WholeCheckpointIO().save_checkpoint({"global_step": 6}, whole)
    with pytest.raises(OSError, match=r"best\.ckpt could not be written: the disk is full.*--ckpt_path \S+last\.ckpt"):
        WholeCheckpointIO().save_checkpoint({"global_step": 6}, whole.with_name("best.ckpt"))
    assert whole.read_bytes() == before and list(whole.parent.iterdir()) == [whole]


def test_a_disk_that_fills_up_while_torch_writes_is_reported_as_full(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() > 200:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    @contextmanager
    def atomic_write(path: Path) -> Iterator[BinaryIO]:
        with Full(path.with_name("part"), "w") as file:
            yield file

    monkeypatch.setattr(checkpoint_io, "atomic_write", atomic_write)
    with pytest.raises(OSError, match=r"last\.ckpt could not be written: the disk is full.*--ckpt_path \S+last\.ckpt"):
        WholeCheckpointIO().save_checkpoint({"w": torch.zeros(9999)}, whole)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="a bug"):
        WholeCheckpointIO().save_checkpoint({"w": Bug()}, whole)


class Bug:
    def __reduce__(self) -> str:
        raise RuntimeError("a bug")
