"""Reads the files of `torch.save` with numpy alone, and runs nothing that stands in them.

Both layouts are read: the zip of PyTorch >= 1.6 (`NAME/data.pkl`, the numbers of each storage in
`NAME/data/KEY`) and the older one (five pickles, then for each storage its length and its numbers).
The pickles go through `jaxvos.pickle_machine`; here its records are held against the bytes that are
really there, and only then become arrays.
"""

import io
import math
import pickle  # for the name of an opcode; nothing of it is run
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxvos.pickle_machine import Machine, Reader, Storage, Tensor, show

_MAX_INFLATION = 20  # times the file's own size; weights hardly shrink, bombs grow a thousandfold
_MAX_DEPTH = 50  # containers within containers
_MAX_EMPTY = 2**40  # the product of the other sizes of a tensor with a size of 0

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# What zipfile, zlib and struct raise on broken input beside ValueError.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError)


def read(path: str | Path) -> Any:
    """What `torch.save` wrote to `path`: dicts, lists, tuples, numbers, strings, arrays.

    Tensors are numpy views of the file's storages, in the type they were saved in.
    Whatever else the file holds, and whatever in it does not fit its own bytes, is one ValueError
    that names the file.
    """
    data = Path(path).read_bytes()
    try:
        return _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
    except (ValueError, *_BROKEN) as error:
        raise ValueError(f"{path}: {error}") from error


class _Builder:
    """Puts arrays where a tree of containers has `Tensor`s.

    What the pickle shares stays shared: a tree of few bytes cannot unfold without end.
    """

    def __init__(self, fetch: Callable[[Storage], memoryview | bytes], byteorder: str) -> None:
        self.fetch, self.byteorder = fetch, byteorder
        self.numbers: dict[str, np.ndarray] = {}
        self.done: dict[int, Any] = {}  # by identity: the tree outlives this

    def build(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, str | int | float):
            return value
        if id(value) not in self.done:
            if depth > _MAX_DEPTH:
                raise ValueError(f"containers lie more than {_MAX_DEPTH} deep in each other")
            self.done[id(value)] = None  # a container that meets itself finds this
            self.done[id(value)] = self._build(value, depth)
        if self.done[id(value)] is None:
            raise ValueError("a container holds itself")
        return self.done[id(value)]

    def _build(self, value: Any, depth: int) -> Any:
        if isinstance(value, Tensor):
            return self._view(value)
        if isinstance(value, dict):
            return {key: self.build(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.build(item, depth + 1) for item in value)
        raise ValueError(f"it holds {show(value)} that belongs to no tensor")

    def _view(self, tensor: Tensor) -> np.ndarray:
        """The tensor as a view, once every number that it touches is known to be there."""
        storage, size, strides = tensor.storage, tensor.size, tensor.stride
        reach = sum((n - 1) * s for n, s in zip(size, strides, strict=True))
        count = math.prod(size)
        fits = tensor.offset + reach < storage.length and count <= storage.length
        if count == 0:
            fits = math.prod(n for n in size if n) <= _MAX_EMPTY
        if not fits:
            raise ValueError(
                f"a tensor of sizes {size}, strides {strides}, offset {tensor.offset}"[:300]
                + f" does not fit its storage of {storage.length} numbers (one that was expanded "
                "has to be saved as .contiguous())"
            )
        if count == 0:
            return np.empty(size, storage.dtype)
        numbers = self._storage(storage)[storage.start : storage.start + storage.length]
        # The stride along a single entry is never taken and may be any number.
        steps = [s if n > 1 else 0 for n, s in zip(size, strides, strict=True)]
        width = numbers.itemsize
        return np.ndarray(
            size, numbers.dtype, numbers, tensor.offset * width, [s * width for s in steps]
        )

    def _storage(self, storage: Storage) -> np.ndarray:
        """All numbers of the file under the storage's key [total], read once."""
        if storage.key not in self.numbers:
            raw, width = self.fetch(storage), storage.dtype.itemsize
            if storage.total * width > len(raw):
                raise ValueError(
                    f"the storage {show(storage.key)} should hold {storage.total} x "
                    f"{storage.dtype}, but there are {len(raw)} bytes of it"
                )
            words = np.frombuffer(raw, f"{'<' if self.byteorder == 'little' else '>'}u{width}")
            if self.byteorder != sys.byteorder:
                words = words.byteswap().view(f"=u{width}")
            self.numbers[storage.key] = words[: storage.total].view(storage.dtype)
        return self.numbers[storage.key]


def _read_zip(data: bytes) -> Any:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ValueError(f"a zip file that is broken or was cut short ({error})") from error
    with archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sum(entry.file_size for entry in entries.values()) > _MAX_INFLATION * len(data):
            raise ValueError(f"its parts claim to be over {_MAX_INFLATION} times the file's size")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            names = ", ".join(sorted(entries)[:5])[:200] or "nothing"
            raise ValueError(f"a zip file, but without the one data.pkl of torch.save; has {names}")

        def part(name: str) -> bytes:
            if name not in entries:
                raise ValueError(f"the part {show(name)} is missing")
            if entries[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"the part {show(name)} is packed in a way PyTorch does not use")
            with archive.open(entries[name]) as file:
                return file.read(entries[name].file_size)  # read() would unpack all that comes

        byteorder = f"{roots[0]}byteorder"  # not yet written by the first versions
        order = part(byteorder) if byteorder in entries else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"its byte order is {order[:20]!r}")
        tree = Machine(Reader(part(f"{roots[0]}data.pkl"))).run()
        builder = _Builder(lambda storage: part(f"{roots[0]}data/{storage.key}"), order.decode())
        return builder.build(tree)


def _read_legacy(data: bytes) -> Any:
    reader = Reader(data)
    magic = Machine(reader).run() if data[:1] == pickle.PROTO else None
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise ValueError(
            f"not a file of torch.save: it begins with {data[:16]!r}. A download that was cut "
            "short, a web page, or another format?"
        )
    protocol, info = Machine(reader).run(), Machine(reader).run()
    little = info.get("little_endian") if type(info) is dict else None
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL or type(little) is not bool:
        raise ValueError(f"its layout is {show(protocol)}, written on {show(info)}; 1001 is read")
    machine = Machine(reader)
    tree = machine.run()
    keys = Machine(reader).run()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("its list of storages is not a list of texts")
    raw = {key: _legacy_storage(reader, machine.storages, key, little) for key in keys}

    def fetch(storage: Storage) -> memoryview:
        if storage.key not in raw:
            raise ValueError(f"the storage {show(storage.key)} is missing")
        return raw[storage.key]

    return _Builder(fetch, "little" if little else "big").build(tree)


def _legacy_storage(
    reader: Reader, storages: dict[str, Storage], key: str, little: bool
) -> memoryview:
    """The bytes of the storage that comes next: its length in numbers, then the numbers."""
    if key not in storages:
        raise ValueError(f"the storage {show(key)} belongs to no tensor")
    count, storage = reader.number("<q" if little else ">q"), storages[key]
    if count != storage.total:
        raise ValueError(
            f"the storage {show(key)} should hold {storage.total} numbers, the file says {count}"
        )
    return reader.take(count * storage.dtype.itemsize)
