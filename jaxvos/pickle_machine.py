"""A stack machine for the pickles of `torch.save` that knows no way to run anything.

A pickle is a program: its `REDUCE` calls whatever it has named. Python's own machine can be told
which names to allow, but it still allocates what a file merely claims and sets attributes on what
it has found. This one compares names with a short list, answers with records (`Tensor`, `Storage`)
that nobody has believed yet, and refuses everything else by its name.
"""

import pickle  # for the names of its opcodes; nothing of it is run
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

_MAX_PICKLE = 4 * 2**20  # bytes; the names and sizes of a ResNet-101 take 0.1 MB
_MAX_LINE = 1000
_MAX_DIMS = 32

_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "UntypedStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")

_NUMBERS = {
    pickle.BININT: "<i",
    pickle.BININT1: "<B",
    pickle.BININT2: "<H",
    pickle.BINFLOAT: ">d",
}
_TEXTS = {
    pickle.BINUNICODE: ("<I", "utf-8"),
    pickle.SHORT_BINUNICODE: ("<B", "utf-8"),
    pickle.BINUNICODE8: ("<Q", "utf-8"),
    pickle.BINSTRING: ("<I", "latin-1"),  # Python 2
    pickle.SHORT_BINSTRING: ("<B", "latin-1"),
}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_EMPTY = {pickle.EMPTY_DICT: dict, pickle.EMPTY_LIST: list, pickle.EMPTY_TUPLE: tuple}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}
_OPCODES = {code.code.encode("latin-1"): code.name for code in pickletools.opcodes}


@dataclass(frozen=True, slots=True)
class Name:
    """A `module.name` of the list of what may be asked for."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`length` numbers from `start` on, of the `total` that the file keeps under `key`."""

    key: str
    dtype: np.dtype
    total: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the pickle claims it to be; all counts are of numbers, not of bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def show(value: Any) -> str:
    """A short text for messages; never the repr of a container, which may have no end."""
    if isinstance(value, Name):
        return f"{value.module}.{value.name}"[:100]
    if isinstance(value, str):
        return repr(value[:100])
    if value is None or isinstance(value, int | float):
        return repr(value)[:100]
    return f"a {type(value).__name__.lower()}"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _ordered_dict(args: tuple) -> OrderedDict:
    result = OrderedDict()
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise ValueError("an OrderedDict is made of something else than a list of pairs")
    for pair in args[0] if args else ():  # Python 2 gives the pairs at once
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise ValueError("an OrderedDict is made of something else than a list of pairs")
        _set_item(result, *pair)
    return result


def _tensor(args: tuple) -> Tensor:
    """(storage, offset, size, stride, ...): what follows concerns gradients and is dropped."""
    storage, offset, size, stride = (*args, None, None, None, None)[:4]
    fits = isinstance(storage, Storage) and type(size) is tuple and type(stride) is tuple
    if not (fits and all(map(_is_count, (offset, *size, *stride))) and len(size) == len(stride)):
        raise ValueError(
            "a tensor is not given as a storage, an offset, sizes and strides that are whole "
            f"numbers >= 0: {', '.join(show(value) for value in args[:8])}"
        )
    if len(size) > _MAX_DIMS:
        raise ValueError(f"a tensor has {len(size)} dimensions; {_MAX_DIMS} are the most")
    return Tensor(storage, offset, size, stride)


def _parameter(args: tuple) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise ValueError("a parameter is made of something else than a tensor")
    return args[0]


def _size(args: tuple) -> tuple[int, ...]:
    if len(args) != 1 or type(args[0]) is not tuple or not all(map(_is_count, args[0])):
        raise ValueError("a torch.Size is made of something else than a tuple of whole numbers")
    return args[0]


_MAKERS: dict[Name, Callable[[tuple], Any]] = {
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch", "Size"): _size,
}


def _allowed(module: str, name: str) -> Name:
    found = Name(module, name)
    if found in _MAKERS or (module in _STORAGE_MODULES and name in _DTYPES):
        return found
    raise ValueError(
        f"it asks for {show(found)}, which is no tensor, number, string or container; nothing of "
        "it was run. If a whole network was pickled, load it with PyTorch where its code is "
        "trusted and save its state_dict() instead"
    )


def _set_item(target: Any, key: Any, value: Any) -> None:
    if not isinstance(target, dict):
        raise ValueError(f"its pickle sets an item of {show(target)}")
    if key is not None and type(key) not in (str, int, float, bool):
        raise ValueError(f"its pickle uses {show(key)} as a key; text and numbers are read")
    target[key] = value


class Reader:
    """Walks through bytes and never past their end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise ValueError(
                f"it ends too early: {count} bytes are due at byte {self.at} of {len(self.data)}"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        length = bytes(self.data[self.at : self.at + _MAX_LINE]).find(b"\n")
        if length < 0:
            raise ValueError(f"a line of the pickle does not end within {_MAX_LINE} bytes")
        return bytes(self.take(length + 1)[:-1]).decode("utf-8")


class Machine:
    """Works through the pickle at which `reader` stands.

    Attributes:
        storages: What the tensors of the pickle refer to, by key, as far as it was worked through.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []  # how long the stack was at each MARK
        self._memo: dict[int, Any] = {}
        self._steps: dict[bytes, Callable[[], None]] = {
            **{code: partial(self._number, form) for code, form in _NUMBERS.items()},
            **{code: partial(self._text, *form) for code, form in _TEXTS.items()},
            **{code: partial(self._stack.append, value) for code, value in _CONSTANTS.items()},
            **{code: partial(self._empty, kind) for code, kind in _EMPTY.items()},
            **{code: partial(self._short_tuple, length) for code, length in _TUPLES.items()},
            **{code: partial(self._put, form) for code, form in _PUTS.items()},
            **{code: partial(self._get, form) for code, form in _GETS.items()},
            pickle.LONG1: self._long,
            pickle.MARK: lambda: self._marks.append(len(self._stack)),
            pickle.TUPLE: lambda: self._stack.append(tuple(self._since_mark())),
            pickle.APPEND: lambda: self._extend([self._pop()]),
            pickle.APPENDS: lambda: self._extend(self._since_mark()),
            pickle.SETITEM: lambda: self._set_items([self._pop(), self._pop()][::-1]),
            pickle.SETITEMS: lambda: self._set_items(self._since_mark()),
            pickle.MEMOIZE: lambda: self._memo.update({len(self._memo): self._top()}),
            pickle.GLOBAL: lambda: self._name(self.reader.line(), self.reader.line()),
            pickle.STACK_GLOBAL: lambda: self._name(*[self._pop(), self._pop()][::-1]),
            pickle.REDUCE: self._reduce,
            pickle.BUILD: self._build,
            pickle.BINPERSID: self._storage,
            pickle.PROTO: lambda: self.reader.take(1),  # an opcode too new is refused by itself
            pickle.FRAME: lambda: self.reader.take(8),  # a hint for reading ahead
        }

    def run(self) -> Any:
        """What the pickle builds, with `Tensor`s where the tensors will be."""
        start = self.reader.at
        while (opcode := bytes(self.reader.take(1))) != pickle.STOP:
            if opcode not in self._steps:
                name = _OPCODES.get(opcode, f"0x{opcode.hex()}, which does not exist,")
                raise ValueError(f"its pickle uses {name} where no tensor needs it; it was not run")
            self._steps[opcode]()
            if self.reader.at - start > _MAX_PICKLE:
                raise ValueError(f"its pickle is longer than {_MAX_PICKLE} bytes")
        return self._pop()

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle takes more from its stack than there is")
        return self._stack.pop()

    def _top(self) -> Any:
        self._stack.append(value := self._pop())
        return value

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("its pickle goes back to a mark that was never set")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _number(self, form: str) -> None:
        self._stack.append(self.reader.number(form))

    def _long(self) -> None:
        digits = self.reader.take(self.reader.number("<B"))
        self._stack.append(int.from_bytes(digits, "little", signed=True))

    def _text(self, form: str, encoding: str) -> None:
        self._stack.append(bytes(self.reader.take(self.reader.number(form))).decode(encoding))

    def _empty(self, kind: type) -> None:
        self._stack.append(kind())

    def _short_tuple(self, length: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(length)][::-1]))

    def _put(self, form: str) -> None:
        self._memo[self.reader.number(form)] = self._top()

    def _get(self, form: str) -> None:
        index = self.reader.number(form)
        if index not in self._memo:
            raise ValueError(f"its pickle recalls entry {index}, which it never kept")
        self._stack.append(self._memo[index])

    def _extend(self, items: list[Any]) -> None:
        if type(target := self._top()) is not list:
            raise ValueError(f"its pickle appends to {show(target)}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("its pickle sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set_item(self._top(), key, value)

    def _name(self, module: Any, name: Any) -> None:
        if type(name) is not str or type(module) is not str:
            raise ValueError(f"its pickle names something by {show(module)} and {show(name)}")
        self._stack.append(_allowed(module, name))

    def _reduce(self) -> None:
        args, made_by = self._pop(), self._pop()
        if type(args) is not tuple or not isinstance(made_by, Name) or made_by not in _MAKERS:
            raise ValueError(f"its pickle calls {show(made_by)} with {show(args)}")
        self._stack.append(_MAKERS[made_by](args))

    def _build(self) -> None:
        """Drops the attributes of an OrderedDict: a state dict carries versions of its modules."""
        state, target = self._pop(), self._top()
        if not isinstance(target, OrderedDict) or type(state) is not dict:
            raise ValueError(f"its pickle sets the state of {show(target)} to {show(state)}")

    def _storage(self) -> None:
        """("storage", type, key, device, count) and, in old files, None or a part of it."""
        pid = self._pop()
        if type(pid) is not tuple or len(pid) not in (5, 6) or show(pid[0]) != "'storage'":
            raise ValueError(f"its pickle refers to {show(pid)} outside of it, not to a storage")
        _, kind, key, _, total, *part = pid
        known = isinstance(kind, Name) and kind.name in _DTYPES
        if not known or type(key) is not str or not _is_count(total):
            raise ValueError(
                f"a storage has type {show(kind)}, key {show(key)}, length {show(total)}"
            )
        start, length = _part(part[0], total) if part and part[0] is not None else (0, total)
        storage = Storage(key, _DTYPES[kind.name], total, start, length)
        first = self.storages.setdefault(key, storage)
        if (first.dtype, first.total) != (storage.dtype, storage.total):
            raise ValueError(f"the storage {show(key)} is described in two ways")
        self._stack.append(storage)


def _part(part: Any, total: int) -> tuple[int, int]:
    """Start and length of a view of a storage of `total` numbers: (key, start, length)."""
    if type(part) is not tuple or len(part) != 3 or not all(map(_is_count, part[1:])):
        raise ValueError("a view of a storage is not given as a key, a start and a length")
    if part[1] + part[2] > total:
        raise ValueError(f"a view of a storage ends at {part[1] + part[2]}, the storage at {total}")
    return part[1], part[2]
