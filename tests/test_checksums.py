"""Files of torch.save, read and checked by several threads."""

import io
import os
import random
import signal
import statistics
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from wnseq import _checksums
from wnseq._checksums import CheckedFile, find_damage
from wnseq.training.checkpoint_io import load_checked, open_checked
from wnseq.training.signals import handled_signals

CONTENT = {"long": torch.arange(3000.0), "short": torch.ones(7), "none": torch.ones(0), "names": ["a"] * 50}
WRONG = "it is damaged or cut short (bad CRC-32 of a tensor)"


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checksums, "THREADS", request.param)
    monkeypatch.setattr(_checksums, "PART", 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def load(path: Path) -> tuple[Any, CheckedFile]:
    with CheckedFile(path) as file:
        assert file.damage == ""
        return torch.load(file, weights_only=True), file


def is_whole(loaded: Any) -> bool:
    return all(torch.equal(loaded[name], CONTENT[name]) for name in ("long", "short", "none"))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip a bit of the long tensor."""
    data = bytearray(path.read_bytes())
    data[data.index(CONTENT["long"].numpy().tobytes()[:64]) + offset] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.usefixtures("threads")
def test_each_tensor_of_a_whole_file_is_read_once(path: Path) -> None:
    loaded, file = load(path)
    assert is_whole(loaded) and not file.damage
    assert len(file._unread) <= 1  # the one without bytes, which torch need not read
    assert find_damage(path) == ""


@pytest.mark.usefixtures("threads")
def test_every_flipped_bit_of_a_tensor_is_noticed(path: Path) -> None:
    draw, whole = random.Random(0), path.read_bytes()
    for offset in [64, 11_999, *draw.sample(range(64, 12_000), 20)]:
        flip(path, offset, draw.randrange(8))
        assert load(path)[1].damage == find_damage(path) == WRONG
        path.write_bytes(whole)


@pytest.mark.usefixtures("threads")
def test_a_file_that_is_cut_short_while_it_is_read_is_noticed(path: Path) -> None:
    with CheckedFile(path) as file:
        os.truncate(path, path.stat().st_size // 2)
        assert file.check_rest() == WRONG


@pytest.mark.usefixtures("threads")
def test_tensors_that_torch_does_not_read_are_checked_too(path: Path) -> None:
    flip(path, 5000)
    with CheckedFile(path) as file:
        torch.load(file, map_location="meta", weights_only=True)
        assert not file.damage and file.check_rest() == WRONG


def test_compressed_tensors_are_checked_at_once(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content, zipfile.ZIP_DEFLATED if len(content) == 28 else zipfile.ZIP_STORED)
        (member,) = (member for member in packed.infolist() if member.compress_type == zipfile.ZIP_DEFLATED)
    assert find_damage(path) == "" and is_whole(load(path)[0])
    data = bytearray(path.read_bytes())
    data[member.header_offset + 30 + len(member.filename) + 3] ^= 1
    path.write_bytes(data)
    with CheckedFile(path) as file:
        assert file.damage.startswith("it is damaged or cut short (")


def test_what_is_no_archive_is_left_to_torch(tmp_path: Path) -> None:
    old = io.BytesIO()
    torch.save(CONTENT, old, _use_new_zipfile_serialization=False)
    for content, damage in ((b"", "it is empty"), (b"text", ""), (old.getvalue(), "")):
        (tmp_path / "a").write_bytes(content)
        assert find_damage(tmp_path / "a") == damage
    assert is_whole(load(tmp_path / "a")[0])


def test_checksums_are_joined() -> None:
    draw = random.Random(0)
    for sizes in ((0, 5), (5, 0), (1, 1), (3000, 300_001)):
        one, other = (draw.randbytes(size) for size in sizes)
        assert _checksums._join(zlib.crc32(one), zlib.crc32(other), len(other)) == zlib.crc32(one + other)


def test_no_thread_writes_into_memory_after_an_interrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checksums, "THREADS", 2)
    monkeypatch.setattr(_checksums, "PART", 1000)
    begun, ended = threading.Event(), []

    class Slow(CheckedFile):
        def _fill(self, block: Any, place: int) -> None:
            if threading.current_thread() is threading.main_thread():
                begun.wait(5)
                raise KeyboardInterrupt
            begun.set()
            time.sleep(0.05)
            ended.append(place)

    with Slow(path) as file:
        with pytest.raises(KeyboardInterrupt):
            file.check_rest()
        assert len(ended) == 1  # the part under way, and no other


ERRORS = [OSError(5, "Input/output error"), KeyboardInterrupt(), SystemExit(143)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("error", ERRORS, ids=["disk", "Ctrl-C", "signal"])
def test_what_is_raised_while_torch_reads_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(CheckedFile, "_fill", fail)
    with pytest.raises(type(error)) as raised:
        load_checked(path)
    assert raised.value is error


def test_a_signal_while_torch_reads_is_no_other_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seek(file: CheckedFile, *place: int) -> int:  # torch calls it before readinto
        signal.raise_signal(signal.SIGINT)
        return io.FileIO.seek(file, *place)

    by_python = handled_signals(signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    with by_python, pytest.raises(KeyboardInterrupt), open_checked(path) as file:
        monkeypatch.setattr(CheckedFile, "seek", seek)
        torch.load(file, weights_only=True)


@pytest.mark.slow
def test_a_checkpoint_of_100_mb_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    """As Lightning has it, in turns with torch.load, both to the same tensors; prints what each takes, by -s."""
    network = torch.nn.LSTM(800, 800, 2)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    moments = {k: {"exp_avg": v.clone(), "exp_avg_sq": v.clone()} for k, v in enumerate(weights.values())}
    groups = torch.optim.Adam(network.parameters()).state_dict()["param_groups"]
    content = {"state_dict": weights, "optimizer_states": [{"state": moments, "param_groups": groups}]}
    torch.save(content, tmp_path / "a.ckpt")
    ratios, times = [], []
    for _ in range(25):
        row = []
        for read in (torch.load, load_checked):
            start = time.perf_counter()
            loaded = read(tmp_path / "a.ckpt", map_location="cpu", weights_only=True)
            row.append(time.perf_counter() - start)
            assert all(torch.equal(value, weights[name]) for name, value in loaded["state_dict"].items())
            assert all(
                torch.equal(loaded["optimizer_states"][0]["state"][k]["exp_avg"], v["exp_avg"])
                for k, v in moments.items()
            )
            del loaded
        times.append(row)
        ratios.append(row[1] / row[0])
    alone, checked = (statistics.median(row[k] for row in times) * 1e3 for k in (0, 1))
    low, median, high = statistics.quantiles(ratios, n=4)
    size = (tmp_path / "a.ckpt").stat().st_size / 1e6
    print(f"{size:.0f} MB: {alone:.1f} ms, checked {checked:.1f} ms, ratio {median:.2f} ({low:.2f} to {high:.2f})")
