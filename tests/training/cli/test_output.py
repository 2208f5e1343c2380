"""Output without a reader, closed, or in ASCII."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from wnseq.training.cli.command import main as command
from wnseq.training.cli.output import safe_output

Main = Callable[..., dict[str, float]]


def broken_pipe() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


def closed_terminal() -> io.TextIOWrapper:
    screen, program = os.openpty()
    os.close(screen)
    return os.fdopen(program, "w", encoding="utf-8")


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def full_disk() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123


STREAMS = {"a broken pipe": broken_pipe, "closed": lambda: None, "ASCII": ascii_stream}
if hasattr(os, "openpty"):
    STREAMS["a closed terminal"] = closed_terminal
if Path("/dev/full").exists():
    STREAMS["a full disk"] = full_disk


@pytest.fixture(params=STREAMS)
def output(request: pytest.FixtureRequest) -> Iterator[io.TextIOWrapper | None]:
    """A stream that a test makes its standard output; pytest has set its own by then."""
    stream: io.TextIOWrapper | None = STREAMS[request.param]()
    yield stream
    if stream is not None:
        stream.close()


def test_prints_succeed_whatever_the_output_is(
    output: io.TextIOWrapper | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", output)
    with safe_output():
        for _ in range(3):
            print("a · b" * 100_000, flush=True)
        assert sys.stdout.isatty() is False
    assert sys.stdout is output
    if output is not None:
        output.flush()  # as Python does at its end
        if output.encoding == "ascii":
            assert output.buffer.getvalue().startswith(b"a ? b")  # type: ignore[attr-defined]


def test_a_run_ends_well_whatever_the_output_is(
    output: io.TextIOWrapper | None, main: Main, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", output)
    assert main("--trainer.max_epochs=1")
    assert (here / "runs/toy/1/checkpoints/last.ckpt").exists()


def test_the_list_is_printed_whatever_the_output_is(
    output: io.TextIOWrapper | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", output)
    assert command(["list"]) == 0


def test_an_error_reaches_a_stderr_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = ascii_stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with safe_output():
        print("größer als 1 ·", file=sys.stderr)
    assert stream.buffer.getvalue() == b"gr??er als 1 ?\n"  # type: ignore[attr-defined]


def test_other_errors_of_the_output_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(27, "File too large")

    monkeypatch.setattr(sys, "stdout", Large())
    with pytest.raises(OSError, match="File too large"), safe_output():
        print("x")
