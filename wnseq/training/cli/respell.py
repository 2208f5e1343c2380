"""A checkpoint file in another of the four forms of a weight-normalised weight, without the model it belongs to."""

import json
import os
import pickle
import struct
import warnings
import zipfile
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from wnseq._checksums import find_damage
from wnseq._files import atomic_write
from wnseq._torch_internals import storage_id
from wnseq.errors import reading
from wnseq.functional import Layout
from wnseq.state_dict import FORMS, Form, convert_keys, find_halves, find_pairs

__all__ = ["FORMS", "Respelling", "respell"]

RESIDENT = 64 << 20  # bytes of a mapped file that are read before it is mapped again, so that they leave the memory
CHUNK = 16 << 20
SMALL = 4096  # bytes of a storage of an old file that is read at once
ALIGNMENT = 64  # of each tensor in a file, as torch.save has it
REMEDY = "Python objects are never loaded: save the weights alone, as with torch.save(model.state_dict(), path)."
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip

Path_ = tuple[Any, ...]  # keys from the root of a checkpoint to a tensor
Get = Callable[[Path_], Tensor]


class Respelling(NamedTuple):
    """What :func:`respell` writes.

    Args:
        renamed: The old keys of each weight, and its new ones.
        left_out: Entries that are not written, since they fit the old parameters only.
    """

    renamed: list[tuple[list[str], list[str]]]
    left_out: list[str]


class _Plan:
    """The new tree of a checkpoint, in which a changed tensor is an empty one of its shape, and how to fill those."""

    def __init__(self, form: Form, weights: Sequence[str], transposed: Sequence[str] | None) -> None:
        self.form, self.weights, self.transposed = form, weights, transposed
        self.result = Respelling([], [])
        self.sources: dict[int, Callable[[Get], Tensor]] = {}  # by storage
        self.matched: set[str] = set()

    def convert(self, value: Any, path: Path_ = ()) -> Any:
        if isinstance(value, Tensor):
            self.sources.setdefault(storage_id(value.untyped_storage()), lambda get: get(path))
        if isinstance(value, list | tuple):
            items = [self.convert(item, (*path, k)) for k, item in enumerate(value)]
            return type(value)(items) if type(value) in (list, tuple) else value
        if not isinstance(value, Mapping):
            return value
        entries = self._state_dict(value, path) if any(isinstance(item, Tensor) for item in value.values()) else value
        made = {}
        for key, item in entries.items():
            if any(map(_is_optimizer, item if isinstance(item, list) else [item])):
                self.result.left_out.append(_dotted((*path, key)))
            else:
                made[key] = self.convert(item, (*path, key)) if key in value else item
        return made

    def _state_dict(self, entries: Mapping[Any, Any], path: Path_) -> dict[Any, Any]:
        state = {key: value for key, value in entries.items() if isinstance(key, str)}
        if halves := find_halves(state):
            if path[:1] == ("callbacks",):  # a callback's own values by the names of weights
                return dict(entries)
            raise ValueError(f"{halves[0]} has no other half of its pair in this file: join its shards first")
        pairs = {name: list(pair) for name, pair in find_pairs(state).items()}
        for name, value in state.items():
            hits = [pattern for pattern in self.weights if fnmatchcase(name, pattern)]
            is_weight = isinstance(value, Tensor) and value.ndim > 1
            if hits and is_weight and not any(name in pair for pair in pairs.values()):
                self.matched.update(hits)
                pairs[name] = [name]
        made: dict[Any, Any] = {}
        after: dict[str, tuple[str, list[str]]] = {old[-1]: (name, old) for name, old in pairs.items()}
        both = {key for old in pairs.values() for key in old}
        for key, value in entries.items():
            if key not in both:
                made[key] = value
            if key in after:
                made.update(self._weight(*after[key], state, path))
        return made

    def _weight(self, name: str, old: list[str], state: Mapping[str, Any], path: Path_) -> dict[str, Tensor]:
        parts = {key: state[key] for key in old}
        layout = self._layout(name, *parts.values())
        prefix, _, weight = name.rpartition(".")
        dot = f"{prefix}." if prefix else ""

        def convert(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = convert_keys(given, {weight: layout}, self.form, dot)
            keep = len(old) == 2 and self.form == "wnseq" and given[old[1]].ndim > 2  # it shows its axis
            return {key: given[old[1]] if keep and key == f"{name}_g" else value for key, value in made.items()}

        shapes = convert({key: value.to("meta") for key, value in parts.items()})
        made = {}
        for key, like in shapes.items():
            if len(old) == 2 and self.form != "plain" and (key.endswith(("_v", "original1"))):
                made[key] = parts[old[0]]  # v stays as it is
                self.sources.setdefault(storage_id(made[key].untyped_storage()), lambda get: get((*path, old[0])))
                continue
            made[key] = torch.empty(like.shape, dtype=like.dtype)  # its memory is never touched
            self.sources[storage_id(made[key].untyped_storage())] = lambda get, key=key: (  # type: ignore[misc]
                convert({each: get((*path, each)) for each in old})[key].clone(memory_format=torch.contiguous_format)
            )
        self.result.renamed.append(([_dotted((*path, key)) for key in old], [_dotted((*path, key)) for key in made]))
        return made

    def _layout(self, name: str, v: Tensor, g: Tensor | None = None) -> Layout:
        """Return the axis of a flat scale, which is the second of a transposed convolution."""
        if self.form == "wnseq" or g is None or g.ndim != 1 or v.ndim < 3:
            return 0, 1
        groups, rest = divmod(len(g), v.shape[1])
        second = not rest and bool(groups) and v.shape[0] % groups == 0
        if second and len(g) == v.shape[0]:
            if self.transposed is None:
                raise ValueError(
                    f"{name} may be of a convolution or of a transposed one: its scales fit both. Name the weights of "
                    "transposed convolutions with --transposed, or give --transposed alone if there are none"
                )
            second = any(fnmatchcase(name, pattern) for pattern in self.transposed)
        return (1, groups) if second else (0, 1)


def respell(
    source: Path,
    target: Path | None,
    form: Form,
    weights: Sequence[str] = (),
    transposed: Sequence[str] | None = None,
) -> Respelling:
    """Write a checkpoint of torch, or a safetensors file, with its weight-normalised weights in a given form.

    State dicts are found at any depth. The file is read and written a tensor at a time.

    Args:
        source: The file to read.
        target: The file to write, in the same format, which must not exist; None writes nothing.
        form: ``plain``, ``wnseq``, ``torch_hooks`` or ``torch_parametrizations``.
        weights: Patterns of plain weights to split into v and g, of one scale for each index of the first axis.
        transposed: Patterns of the weights of transposed convolutions, needed where a flat scale fits either axis.

    Raises:
        ValueError: The file is no checkpoint, holds nothing to convert, or the axis of a scale is in doubt.
        OSError: It can't be read, or the target can't be written or exists.
    """
    if target is not None and (target.suffix == ".safetensors") != (source.suffix == ".safetensors"):
        raise ValueError(f"{target} is of another format than {source}: the keys are converted, not the format")
    if weights and form == "plain":
        raise ValueError("--weights names plain weights to split into v and g, and the form plain splits none")
    if target is not None and target.exists():
        raise FileExistsError(f"{target} is there already and is left alone. Choose another name.")
    with reading(source, "a checkpoint", REMEDY):
        file = _Safetensors(source) if source.suffix == ".safetensors" else _torch_file(source)
        tree = file.tree()
    plan = _Plan(form, weights, transposed)
    made = plan.convert(tree)
    if missing := [pattern for pattern in weights if pattern not in plan.matched]:
        raise ValueError(f"--weights {missing[0]!r} fits no plain weight of {source}")
    if not plan.result.renamed:
        raise ValueError(
            f"{source} holds no weight-normalised weight; name the plain ones to split with --weights, as in "
            "--weights 'rnn.weight_*'"
        )
    if target is not None:
        with atomic_write(target) as out:
            file.write(made, out, plan.sources)
    return plan.result


def _torch_file(path: Path) -> "_TorchFile":
    """Open a file of ``torch.save``.

    Raises:
        ValueError: It is damaged.
    """
    if damage := find_damage(path):
        raise ValueError(damage)
    return _TorchFile(path) if zipfile.is_zipfile(path) else _OldTorchFile(path)


class _TorchFile:
    """A file of ``torch.save``, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loaded: Any = None
        self.touched = 0

    def tree(self) -> Any:
        self.loaded = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        return self.loaded

    def get(self, path: Path_) -> Tensor:
        if self.touched > RESIDENT:
            self.loaded, self.touched = None, 0
            self.tree()
        tensor = self.find(path)
        self.touched += tensor.untyped_storage().nbytes()
        return tensor

    def find(self, path: Path_) -> Tensor:
        """Return a tensor of the tree that was loaded last."""
        value = self.loaded
        for key in path:
            value = value[key]
        tensor: Tensor = value
        return tensor

    def read(self, storage: torch.UntypedStorage, source: Callable[[Get], Tensor] | None) -> Iterator[memoryview]:
        """Read the bytes of a storage of the new tree in parts."""
        return _chunks(_bytes_of(source(self.get).untyped_storage() if source else storage))

    def write(self, tree: Any, out: BinaryIO, sources: Mapping[int, Callable[[Get], Tensor]]) -> None:
        self.tree()  # a mapping of its own, which the new tree does not hold
        storages: dict[int, tuple[str, Any]] = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                typed = isinstance(value, torch.TypedStorage)
                if not typed and not isinstance(value, torch.UntypedStorage):
                    return None
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch's own files hold typed storages
                    kind = getattr(torch, value.pickle_storage_type()) if typed else torch.UntypedStorage
                    bare, numel = (value.untyped(), value.size()) if typed else (value, value.nbytes())
                key, _ = storages.setdefault(storage_id(bare), (str(len(storages)), bare))
                return "storage", kind, key, "cpu", numel

        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with _record(archive, out, "archive/data.pkl", 0) as record:
                Pickler(record, protocol=2).dump(tree)
            for name, text in (("byteorder", b"little"), ("version", b"3\n")):
                with _record(archive, out, f"archive/{name}", len(text)) as record:
                    record.write(text)
            for cdata, (key, storage) in storages.items():
                with _record(archive, out, f"archive/data/{key}", storage.nbytes()) as record:
                    record.writelines(self.read(storage, sources.get(cdata)))


def _record(archive: zipfile.ZipFile, out: BinaryIO, name: str, size: int) -> Any:
    """Open a record of an archive, its bytes aligned as torch has them."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    zip64 = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0
    padding = -(out.tell() + 30 + len(name) + zip64 + 4) % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return archive.open(info, "w")


class _OldTorchFile(_TorchFile):
    """A file of torch before 1.6, no zip archive and not to be mapped: each tensor is read when it is needed."""

    def tree(self) -> Any:
        if self.loaded is None:  # once: where the bytes are is known by the addresses of this tree
            with self.path.open("rb") as file:
                self.skipping = _SkippingFile(file)
                self.loaded = torch.load(self.skipping, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
        return self.loaded

    def get(self, path: Path_) -> Tensor:
        tensor = self.find(path)
        place = self.skipping.place(tensor.data_ptr())
        if place is None:
            return tensor
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        read = torch.empty(last + 1, dtype=tensor.dtype)
        with self.path.open("rb") as file:
            file.seek(place)
            file.readinto(_view(_as_bytes(read)))
        return read.as_strided(tensor.shape, tensor.stride())

    def read(self, storage: torch.UntypedStorage, source: Callable[[Get], Tensor] | None) -> Iterator[memoryview]:
        place = self.skipping.place(storage.data_ptr())
        if place is None:  # a new weight, or a small one
            yield from super().read(storage, source)
            return
        part = torch.empty(min(CHUNK, storage.nbytes()), dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(place)
            for first in range(0, storage.nbytes(), CHUNK):
                view = _view(part[: storage.nbytes() - first])
                file.readinto(view)
                yield view


class _SkippingFile:
    """A file for ``torch.load`` that skips the bytes of large storages, but knows where they are."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.read, self.readline, self.seek, self.tell = file.read, file.readline, file.seek, file.tell
        self.skipped: list[tuple[int, int, int]] = []  # address, number of bytes, place in the file; by address

    def readinto(self, buffer: memoryview) -> int:
        if len(buffer) <= SMALL:  # the length of a storage, too
            return self.file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]
        place = self.tell()
        number = min(len(buffer), self.size - place)
        insort(self.skipped, (torch.frombuffer(buffer, dtype=torch.uint8).data_ptr(), number, place))
        self.seek(place + number)
        return number

    def place(self, address: int) -> int | None:
        """Return where in the file the bytes at an address are; None if they are in memory."""
        index = bisect_right(self.skipped, address, key=lambda entry: entry[0])
        start, number, place = self.skipped[index - 1] if index else (0, 0, 0)
        return place + address - start if address < start + number else None


class _Safetensors:
    """A file of the safetensors format: a header in JSON, then the bytes of each tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            self.header = json.loads(file.read(length))
        self.start = 8 + length
        self.metadata = self.header.pop("__metadata__", None)
        if unknown := {entry["dtype"] for entry in self.header.values()} - set(DTYPES):
            raise ValueError(f"no dtype {sorted(unknown)[0]} is known")

    def tree(self) -> dict[str, Tensor]:
        return {name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]]) for name, entry in self.header.items()}

    def get(self, path: Path_) -> Tensor:
        entry = self.header[path[0]]
        first, last = entry["data_offsets"]
        tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        with self.path.open("rb") as file:
            file.seek(self.start + first)
            if tensor.numel() and file.readinto(_view(_as_bytes(tensor))) != last - first:
                raise ValueError(f"{self.path} is cut short: {path[0]} is not whole")
        return tensor

    def write(self, tree: Any, out: BinaryIO, sources: Mapping[int, Callable[[Get], Tensor]]) -> None:
        names = {dtype: name for name, dtype in DTYPES.items()}
        header: dict[str, Any] = {} if self.metadata is None else {"__metadata__": self.metadata}
        offset = 0
        for key, tensor in tree.items():
            end = offset + tensor.nbytes
            header[key] = {"dtype": names[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tree.values():
            out.writelines(_chunks(_as_bytes(sources[storage_id(tensor.untyped_storage())](self.get))))


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _chunks(data: Tensor) -> Iterator[memoryview]:
    for first in range(0, data.numel(), CHUNK):
        yield _view(data[first : first + CHUNK])


def _view(data: Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))
