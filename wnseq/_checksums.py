"""Checksums of the files that ``torch.save`` writes, which ``torch.load`` does not look at."""

import errno
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

PART = 1 << 19  # bytes that a thread reads at a time: they are in its core's cache when it sums them
HEADER = struct.Struct("<4s22xHH")  # of a member of an archive: its signature, the lengths of its name and extra field
POLYNOMIAL = 0xEDB88320  # of CRC-32, the highest power in the lowest bit
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(4, CORES) if hasattr(os, "preadv") else 1


class CheckedFile(io.FileIO):
    """A file of ``torch.save`` that is checked: its pickle at once, each tensor while ``torch.load`` reads it.

    A tensor is read by several threads into its place in memory, and each sums what it has read while that is in the
    cache. A file of torch before 1.6, which is no zip archive, has no checksums.

    Args:
        path: The file.

    Raises:
        OSError: It can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._pool = ThreadPoolExecutor(max(1, THREADS - 1))  # a thread starts when there is work for it
        super().__init__(path)
        self.damage = ""  # what is wrong with what has been read so far
        self.error: BaseException | None = None  # raised by readinto; torch.load raises another one then
        self.before_reading: Callable[[], None] = lambda: None  # what it raises is kept too
        self._unread: dict[int, tuple[int, int]] = {}  # by the place of a tensor in the file: its bytes, their CRC-32
        try:
            self._open()
        except Exception as error:  # zipfile raises nearly anything on a damaged file
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before 0
                self.close()
                raise
            self.damage = f"it is damaged or cut short ({type(error).__name__}: {error})"
        self.seek(0)

    def _open(self) -> None:
        start = self.read(2)
        self.damage = "" if start else "it is empty"
        if start != b"PK":
            return
        with zipfile.ZipFile(self) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > self.seek(0, os.SEEK_END):
                self.damage = "it is damaged or made to fill the memory: it unpacks to more than its size"
                return
            for member in members:
                if "/data/" in member.filename and member.compress_type == zipfile.ZIP_STORED:
                    self._unread[self._find(member)] = member.file_size, member.CRC
                else:
                    with archive.open(member) as opened:
                        while opened.read(PART):
                            pass

    def _find(self, member: zipfile.ZipInfo) -> int:
        """Return where the bytes of a member begin."""
        self.seek(member.header_offset)
        signature, length, extra = HEADER.unpack(self.read(HEADER.size))
        if signature != b"PK\3\4" or self.read(length) != member.orig_filename.encode():
            raise zipfile.BadZipFile(f"{member.orig_filename} is not in its place")
        return self.tell() + int(extra)

    def close(self) -> None:
        """Close the file, and end its threads."""
        self._pool.shutdown()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Read bytes, as any file does; those of a tensor, which ``torch.load`` reads by one call, are checked."""
        try:
            self.before_reading()
            place, size = self.tell(), len(buffer)
            if self._unread.get(place, (-1,))[0] != size:
                return super().readinto(buffer)
            self._check([place], buffer)
            self.seek(place + size)
            return size
        except BaseException as error:
            self.error = error
            return 0

    def check_rest(self) -> str:
        """Return what is wrong with the file, or nothing; tensors that nobody has read are read for it."""
        if not self.damage:
            self._check([*self._unread])
        return self.damage

    def _check(self, places: Sequence[int], buffer: Any = None) -> None:
        """Read the tensors at some places, a single one into a buffer, and check them."""
        parts = [(place, first) for place in places for first in range(0, self._unread[place][0], PART)]
        left, sums = iter(parts), {}

        def work() -> None:
            own = memoryview(bytearray(PART if buffer is None else 0))
            for place, first in left:  # which all threads share
                size = min(PART, self._unread[place][0] - first)
                block = own[:size] if buffer is None else buffer[first : first + size]
                self._fill(block, place + first)
                sums[place, first] = zlib.crc32(block)

        helpers = [self._pool.submit(work) for _ in range(min(THREADS, len(parts)) - 1)]
        try:
            work()
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        finally:
            is_over = False
            while not is_over:  # after a signal, or two, the buffer is freed: no thread may write into it then
                with suppress(BaseException):
                    for _ in left:
                        pass
                    wait([helper for helper in helpers if not helper.cancel()])
                    is_over = True
        for place in places:
            size, expected = self._unread.pop(place)
            found = 0
            for first in range(0, size, PART):
                found = _join(found, sums[place, first], min(PART, size - first))
            if found != expected:
                self.damage = "it is damaged or cut short (bad CRC-32 of a tensor)"

    def _fill(self, block: Any, place: int) -> None:
        """Read bytes into memory, as many as there are."""
        while len(block):
            if THREADS > 1:
                read = os.preadv(self.fileno(), [block], place)
            else:
                self.seek(place)
                read = super().readinto(block)
            if not read:
                return
            block, place = block[read:], place + read


def find_damage(path: Path) -> str:
    """Return what is wrong with a file of ``torch.save``, or nothing.

    Raises:
        OSError: It can't be read.
    """
    with CheckedFile(path) as file:
        return file.check_rest()


def _join(before: int, after: int, size: int) -> int:
    """Return the CRC-32 of some data from that of what is before its last bytes, and that of these, which are so many.

    Source:
        crc32_combine of zlib.
    """
    return _multiply(_shift(size), before) ^ after if before else after


@functools.lru_cache(maxsize=256)
def _shift(size: int) -> int:
    """Return x to the power of the bits in some bytes, modulo the polynomial."""
    power, square = 1 << 31, 1 << 23  # x^0, x^8
    while size:
        if size & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        size >>= 1
    return power


def _multiply(one: int, other: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (POLYNOMIAL if other & 1 else 0)
    return product
