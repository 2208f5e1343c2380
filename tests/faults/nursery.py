"""A process that has imported everything and forks one for each run: 5 seconds of imports less for each.

Run as a program it reads requests, a line of JSON each, and answers with exit statuses. :class:`Nursery` talks to it.
"""

import fcntl
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POWER_CUT = 0x8004587D, 2  # ext4's ioctl to shut down, and the flag not to write the journal first


class Nursery:
    """Runs commands in forked processes."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "training")}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, folder: Path, module: str, words: list[str], **request: Any) -> dict[str, Any]:
        """Run a command in a folder.

        Args:
            folder: The folder to run in; the output goes to ``output.txt`` there, or ``output.RANK.txt``.
            module: The recipe's module.
            words: The command line.
            request: ``ranks``, how many processes; ``environment``; ``record``, a file for the operations on files;
                ``fault``, the number of the operation at which the process ends and how, ``kill`` or ``power cut``;
                ``signals``, (rank, number, seconds after the first batch); ``seconds``, the most that it may take;
                ``sample``, seconds between two readings of the memory.

        Returns:
            ``statuses`` of the ranks, negative for a signal; ``ended``, the seconds since the first signal; ``memory``.
        """
        asked = {"folder": str(folder), "module": module, "words": words, **request}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Operations:
    """Counts what a process does to the files of some folders: opens, writes, syncs, renames; ends it at one of them.

    A write is ended in its middle, with half of the bytes written, others before and after in turn.
    """

    def __init__(self, folders: list[str], fault: tuple[int, str] | None, record: str | None) -> None:
        self.folders, self.record, self.count = folders, record, 0
        self.at, self.how = fault or (-1, "kill")

    def install(self) -> None:
        """Replace the functions that change files."""
        for name in ("replace", "rename", "fsync", "truncate", "unlink", "ftruncate"):
            self._wrap(name)
        plain, operations = io.open, self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                half = memoryview(data).cast("B")[: len(data) // 2]
                operations.step("write", str(self.name), lambda: super(Raw, self).write(half))
                return super().write(data)

        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or not operations.is_watched(os.fsdecode(file)):
                return plain(file, mode, buffering, *args, **kwargs)
            raw = Raw(os.fsdecode(file), mode.replace("t", "").replace("b", ""))
            if buffering == 0:
                return raw
            binary: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return binary
            names = ("encoding", "errors", "newline")
            return io.TextIOWrapper(binary, **dict(zip(names, args, strict=False)), **kwargs)

        import builtins

        io.open = builtins.open = opened

    def _wrap(self, name: str) -> None:
        plain = getattr(os, name)

        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            target = args[0] if name in ("replace", "rename") else path
            known = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
            if not self.is_watched(os.fsdecode(known)):
                return plain(path, *args, **kwargs)
            after = self.count % 2 == 1
            if after:
                result = plain(path, *args, **kwargs)
            self.step(name, os.fsdecode(known))
            return result if after else plain(path, *args, **kwargs)

        setattr(os, name, wrapped)

    def is_watched(self, path: str) -> bool:
        file = Path(path).absolute()
        # TensorBoard writes in a thread of its own, whose operations have no fixed place among the others
        is_left_out = "output" in file.name or "tfevents" in file.name
        return str(file).startswith(tuple(self.folders)) and not is_left_out

    def step(self, name: str, path: str, half: Any = None) -> None:
        """Count an operation; end the process at the one that was asked for."""
        self.count += 1
        if self.record:
            line = json.dumps([name, Path(path).name, self.count]) + "\n"
            descriptor = os.open(self.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line.encode())
            os.close(descriptor)
        if self.count == self.at:
            if half is not None:
                half()
            if self.how == "power cut":
                descriptor = os.open(self.folders[0], os.O_RDONLY)
                code, flag = POWER_CUT
                fcntl.ioctl(descriptor, code, flag.to_bytes(4, "little"))
            os.kill(os.getpid(), signal.SIGKILL)


def _child(request: dict[str, Any], rank: int) -> None:
    """Be the process of a rank; never return."""
    folder, ranks = request["folder"], request.get("ranks", 1)
    os.chdir(folder)
    os.environ.update(request.get("environment", {}))
    if ranks > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1")
        os.environ.update(MASTER_PORT=str(request["port"]), GLOO_SOCKET_IFNAME="lo")
    tempfile.tempdir = None
    output = os.open(f"output.{rank}.txt" if ranks > 1 else "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    from toy import Started

    Started.path = Path(f"started.{rank}")
    watched = [folder, *(value for value in request.get("environment", {}).values() if value.startswith("/"))]
    if request.get("fault") or request.get("record"):
        fault = request.get("fault")
        Operations(watched, tuple(fault) if fault else None, request.get("record")).install()
    status = 0
    try:
        importlib.import_module(request["module"]).main(request["words"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    ranks = request.get("ranks", 1)
    started = [Path(request["folder"], f"started.{rank}") for rank in range(ranks)]
    for path in started:
        path.unlink(missing_ok=True)
    children = {}
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            _child(request, rank)
        children[child] = rank
    pids = {rank: child for child, rank in children.items()}
    begin, first, statuses, memory = time.monotonic(), None, {}, []
    signals = sorted(request.get("signals", []), key=lambda each: each[2])
    trained = sampled = None
    while len(statuses) < ranks:
        for child in [child for child, rank in children.items() if rank not in statuses]:
            if (done := os.waitpid(child, os.WNOHANG))[0]:
                statuses[children[child]] = os.waitstatus_to_exitcode(done[1])
        now = time.monotonic()
        if trained is None and all(path.exists() for path in started):
            trained = now
        while signals and trained is not None and now >= trained + signals[0][2]:
            rank, number, _ = signals.pop(0)
            first = first or now
            if rank not in statuses:
                os.kill(pids[rank], number)
        if "sample" in request and (sampled is None or now >= sampled + request["sample"]) and 0 not in statuses:
            sampled = now
            memory.append(int(Path(f"/proc/{pids[0]}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        if now > begin + request.get("seconds", 60):
            for child, rank in children.items():
                if rank not in statuses:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    ended = time.monotonic()
    return {
        "statuses": [statuses[rank] for rank in range(ranks)],
        "ended": ended - (first or begin),
        "memory": memory,
    }


def main() -> None:
    """Import what runs need, then answer requests."""
    for name in ("draw", "image_classifier", "language_model", "pixelcnn", "q_learning", "sequential_images", "vae"):
        importlib.import_module(f"wnseq.recipes.{name}")
    importlib.import_module("toy")
    if importlib.util.find_spec("tensorboard"):
        importlib.import_module("torch.utils.tensorboard")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # nothing here looks at a figure
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
