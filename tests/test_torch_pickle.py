"""The files of torch.save are read without PyTorch, and nothing in them is run."""

import json
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxvos import torch_pickle
from tests.torch_files import (
    SIX,
    call,
    dump,
    name,
    pickled,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

FIXTURES = Path(__file__).parent / "fixtures"
WRITERS = [write_zip, write_legacy]
MEMORY = 20 * 2**20  # bytes; every file here is far smaller


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def refused(path) -> str:
    """The message of the one ValueError that reading gives, within bounded memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            torch_pickle.read(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# What is read.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_the_files_of_real_pytorch_hold_the_numbers_that_went_in(layout):
    found = torch_pickle.read(FIXTURES / f"{layout}.pth")
    expected = json.loads((FIXTURES / "expected.json").read_text())
    assert list(found) == ["epoch", "model"] and found["epoch"] == 3
    assert list(found["model"]) == list(expected)
    for key, numbers in expected.items():
        np.testing.assert_array_equal(found["model"][key].astype(np.float64), numbers)
    kinds = [str(array.dtype) for array in found["model"].values()]
    floats = ["float32", "float64", "float16", "bfloat16"]
    assert kinds == [*floats, "float32", "float32", "int64", "float32"]


def test_other_types_and_containers_come_as_they_were_saved():
    found = torch_pickle.read(FIXTURES / "types.pth")
    assert found["nested"] == [1, 2.5, "text", None, (True, -(2**40))]
    assert found["shape"] == (2, 3)
    assert found["bool"].tolist() == [True, False, True] and found["bool"].dtype == bool
    assert found["uint8"].tolist() == [0, 1, 2, 3] and found["uint8"].dtype == np.uint8
    assert found["int32"].tolist() == [-1, 2**30] and found["int32"].dtype == np.int32
    assert found["empty"].shape == (0, 5)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("size", "stride", "offset", "expected"),
    [
        ((2, 3), (3, 1), 0, [[0, 1, 2], [3, 4, 5]]),
        ((3, 2), (1, 3), 0, [[0, 3], [1, 4], [2, 5]]),
        ((2,), (3,), 2, [2, 5]),
        ((), (), 4, 4),
        ((2, 2), (1, 1), 3, [[3, 4], [4, 5]]),  # overlapping, but within the storage
        ((4,), (0,), 5, [5, 5, 5, 5]),
        ((1, 2), (10**30, 1), 0, [[0, 1]]),  # the stride of one entry is never taken
    ],
)
def test_views_are_taken_by_offset_and_stride(path, write, size, stride, offset, expected):
    write(path, dump([tensor(size, stride, offset)]))
    assert torch_pickle.read(path)[0].tolist() == expected


def test_old_storage_views_are_parts_of_their_storage(path):
    part = storage(part=(("other", 2, 3),))
    write_legacy(path, dump([tensor((3,), (1,), 0, part)]))
    assert torch_pickle.read(path)[0].tolist() == [2, 3, 4]
    write_legacy(path, dump([tensor((4,), (1,), 0, part)]))
    assert "does not fit its storage of 3 numbers" in refused(path)
    write_legacy(path, dump([tensor((3,), (1,), 0, storage(part=(("other", 4, 3),)))]))
    assert "ends at 7, the storage at 6" in refused(path)


def test_files_of_big_endian_machines_are_turned(path):
    write_zip(path, dump([tensor()]), {"0": np.arange(6, dtype=">f4").tobytes()})
    assert torch_pickle.read(path)[0].max() < 1e-30  # no byteorder: little
    write_zip(path, dump([tensor()]), {"0": np.arange(6, dtype=">f4").tobytes()},
              extra=[("byteorder", "big")])  # fmt: skip
    assert torch_pickle.read(path)[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    halves = np.arange(6).astype(ml_dtypes.bfloat16).view(np.uint16).astype(">u2").tobytes()
    numbers = storage(kind="BFloat16Storage")
    write_legacy(path, dump([tensor(numbers=numbers)]), {"0": (6, halves)}, little=False)
    assert torch_pickle.read(path)[0].astype(int).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_python_2_gives_texts_as_bytes_and_dictionaries_as_pairs(path):
    pairs = name("collections", "OrderedDict") + dump(([[b"U\x01a", 1], [b"U\x01b", 2]],)) + b"R"
    write_legacy(path, pairs, {})
    assert torch_pickle.read(path) == {"a": 1, "b": 2}


def test_the_attributes_of_a_state_dict_are_dropped(path):
    write_zip(path, call("collections", "OrderedDict") + dump({"items": 1}) + b"b")
    assert torch_pickle.read(path) == {}


def test_deflated_parts_are_read(path):
    write_zip(path, dump([tensor()]), compression=zipfile.ZIP_DEFLATED)
    assert torch_pickle.read(path)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


# What is refused.


RECALLED = dump("posix") + b"q\x05" + dump("system") + b"q\x06h\x05h\x06\x93"  # by the memo
SYSTEM = call("builtins", "getattr", call("builtins", "__import__", "os"), "system")
NUMPY = call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), "b")


def harmful(marker: Path) -> dict[str, bytes]:
    """Pickles by the name that they are refused by; where it is run, each makes `marker`."""
    touch, python = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": call("os", "system", touch),
        "posix.system": RECALLED + dump((touch,)) + b"R",
        "builtins.eval": call("builtins", "eval", python),
        "builtins.exec": call("builtins", "exec", python),
        "builtins.getattr": SYSTEM + dump((touch,)) + b"R",
        "subprocess.call": call("subprocess", "call", touch.split()),
        "numpy._core.multiarray._reconstruct": dump((NUMPY, call("os", "system", touch))),
        "INST": b"(" + dump(touch) + b"ios\nsystem\n",
    }


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("refusal", harmful(Path("marker")))
def test_what_runs_elsewhere_is_refused_by_its_name_and_not_run(path, tmp_path, write, refusal):
    marker = tmp_path / "marker"
    harm = harmful(marker)[refusal]
    pickle.loads(pickled(harm))
    assert marker.exists(), "this pickle does nothing anywhere, so it would show nothing"
    marker.unlink()
    for value in (harm, dump({"model": [1, harm]}), tensor(numbers=harm)):
        write(path, value)
        assert refusal in refused(path)
        assert not marker.exists()


def test_a_whole_network_is_refused_with_what_would_do(path):
    write_zip(path, name("models.cosnet", "COSNet") + b")\x81" + dump({"training": True}) + b"b")
    assert "asks for models.cosnet.COSNet" in (message := refused(path))
    assert "save its state_dict()" in message


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
MALFORMED = {
    "sets the state of torch._utils._rebuild_tensor_v2": REBUILD + dump({"__code__": 1}) + b"b",
    "sets the state of a dict to a tuple": dump({}) + dump((None, {"a": 1})) + b"b",
    "calls torch.FloatStorage with a tuple": call("torch", "FloatStorage", 10**15),
    "calls a list with a tuple": dump([]) + dump(()) + b"R",
    "uses NEWOBJ": name("collections", "OrderedDict") + b")\x81",
    "uses PERSID": b"Pstorage\n",
    "uses EXT1": b"\x82\x01",
    "uses 0xff": b"\xff",
    "names something by 1 and 2": dump(1) + dump(2) + b"\x93",
    "refers to 'storage' outside": dump("storage") + b"Q",
    "refers to a tuple outside": dump(("module", name("torch", "Size"), "0", "cpu", 6)) + b"Q",
    "type 'FloatStorage'": dump(("storage", "FloatStorage", "0", "cpu", 6)) + b"Q",
    "type torch.Size": dump(("storage", name("torch", "Size"), "0", "cpu", 6)) + b"Q",
    "key 7": storage(key=7),
    "length -6": storage(total=-6),
    "length True": storage(total=True),
    "'0' is described in two ways": dump([tensor(), tensor(numbers=storage(total=5))]),
    "recalls entry 7": b"h\x07",
    "mark that was never set": b"t",
    "more from its stack than there is": b"(R",
    "appends to a dict": dump({}) + dump(1) + b"a",
    "sets an item of a list": dump([]) + dump((1, 2))[:-1] + b"u",
    "a key without a value": b"}(" + dump(1) + b"u",
    "uses a tuple as a key": b"}" + dump(()) + dump(1) + b"s",
    "holds itself": b"]q\x01h\x01a",
    "50 deep in each other": b"]" * 10_000 + b"a" * 9_999,
    "holds torch.FloatStorage that belongs to no": name("torch", "FloatStorage"),
    "holds a storage that belongs to no": storage(),
    "a list of pairs": call("collections", "OrderedDict", [1, 2]),
    "a parameter is made of": call("torch._utils", "_rebuild_parameter", 1, True),
    "a torch.Size is made of": call("torch", "Size", (1, "2")),
    "line of the pickle does not end": b"c" + b"a" * 5000,
    "can't decode": b"X\x01\0\0\0\xff",
    "longer than 4194304 bytes": dump("long")[:1] + struct.pack("<I", 2**22) + bytes(2**22),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("words", MALFORMED)
def test_a_pickle_that_means_no_tensor_is_refused(path, write, words):
    write(path, MALFORMED[words], {})
    assert words in refused(path)


UNFIT = {
    "offset 6 does not fit": tensor((1,), (1,), 6),
    "offset 5 does not fit": tensor((2,), (1,), 5),
    "sizes (2, 4)": tensor((2, 4), (4, 1)),
    "strides (4, 1)": tensor((2, 3), (4, 1)),
    "sizes (7,), strides (0,)": tensor((7,), (0,)),  # expanded
    "sizes (6, 6), strides (0, 1)": tensor((6, 6), (0, 1)),
    f"sizes ({2**62},), strides (0,)": tensor((2**62,), (0,)),
    f"strides ({2**63},)": tensor((2,), (2**63,)),
    "1237940039285380274899124224": tensor((2**90,), (1,)),
    f"sizes (0, {2**62})": tensor((0, 2**62), (1, 1)),
    "whole numbers >= 0: a storage, 0, a tuple": tensor((-2, 3), (3, 1)),
    "whole numbers >= 0: a storage, -1": tensor(offset=-1),
    "whole numbers >= 0: a storage, True": tensor(offset=True),
    "whole numbers >= 0: a storage, 0, a tuple, a list": tensor(stride=[3, 1]),
    "whole numbers >= 0": tensor((2, 3), (-3, 1), 5),
    "whole numbers >= 0: 'x'": tensor(numbers=dump("x")),
    "sizes and strides that are": tensor((2, 3), (1,)),
    "33 dimensions": tensor((1,) * 33, (1,) * 33),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("words", UNFIT)
def test_a_tensor_that_leaves_its_storage_is_refused_before_it_is_made(path, write, words):
    write(path, dump([UNFIT[words]]))
    assert words in refused(path)


@pytest.mark.parametrize("total", [7, 2**40, 2**70])
def test_a_storage_larger_than_its_bytes_is_refused(path, total):
    value = dump([tensor((1,), (1,), 0, storage(total=total))])
    write_zip(path, value)
    assert f"should hold {total} x float32, but there are 24 bytes" in refused(path)
    write_legacy(path, value)
    assert f"should hold {total} numbers, the file says 6" in refused(path)
    write_legacy(path, value, {"0": (min(total, 2**62), SIX)})
    assert "ends too early" in (message := refused(path)) or "the file says" in message


def test_a_tree_that_refers_to_itself_many_times_does_not_unfold(path):
    write_zip(path, dump(["laugh"]) + b"q\x01" + b"](h\x01h\x01eq\x01" * 40)
    found = torch_pickle.read(path)
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == ["laugh"]


def test_a_huge_memo_index_or_text_length_allocates_nothing(path):
    write_zip(path, dump([1]) + b"r\xff\xff\xff\xff")
    assert torch_pickle.read(path) == [1]
    write_zip(path, b"\x8d" + struct.pack("<Q", 2**63))
    assert f"{2**63} bytes are due" in refused(path)


def test_a_zip_that_is_not_what_it_should_be_is_refused(path):
    value = dump([tensor()])
    write_zip(path, value, {})
    assert "'net/data/0' is missing" in refused(path)
    write_zip(path, value, extra=[("byteorder", "middle")])
    assert "byte order is b'middle'" in refused(path)
    write_zip(path, value, extra=[("more/data.pkl", "")])
    assert "without the one data.pkl" in refused(path)
    write_zip(path, value, compression=zipfile.ZIP_BZIP2)
    assert "packed in a way PyTorch does not use" in refused(path)
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    path.with_suffix(".npz").rename(path)
    assert "has a.npy" in refused(path)


def test_zip_bombs_and_false_sizes_are_refused(path):
    value = dump([tensor((10,), (1,), 0, storage(total=10**7))])
    write_zip(path, value, {"0": bytes(4 * 10**7)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000 and "over 20 times the file's size" in refused(path)
    write_zip(path, dump([tensor()]), {"0": bytes(4 * 10**7)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # data/0 in the directory; its size is at byte 24
    data[entry + 24 : entry + 28] = struct.pack("<I", 24)
    path.write_bytes(data)
    assert "CRC" in refused(path)
    data[entry + 8] |= 1  # encrypted
    path.write_bytes(data)
    assert "password" in refused(path)


def test_an_old_file_that_is_not_what_it_should_be_is_refused(path):
    value = dump([tensor()])
    write_legacy(path, value, {})
    assert "storage '0' is missing" in refused(path)
    write_legacy(path, value, {"0": (6, SIX), "1": (6, SIX)})
    assert "storage '1' belongs to no tensor" in refused(path)
    write_legacy(path, value, {"0": (-6, SIX)})
    assert "the file says -6" in refused(path)
    write_legacy(path, value, little=None)
    assert "1001 is read" in refused(path)
    path.write_bytes(path.read_bytes().replace(pickled(1001), pickled(1002)))
    assert "its layout is 1002" in refused(path)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs", b"<html>", pickled({"a": 1})])
def test_other_files_are_named_by_how_they_begin(path, data):
    path.write_bytes(data)
    assert f"not a file of torch.save: it begins with {data[:16]!r}" in refused(path)


def test_a_file_cut_anywhere_is_refused(path):
    for layout in ("zip", "legacy"):
        data = (FIXTURES / f"{layout}.pth").read_bytes()
        for length in range(0, len(data), 7):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"net\.pth: "):
                torch_pickle.read(path)


def _mutants(data: bytes, count: int):
    rng = random.Random(0)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        yield bytes(mutant[: rng.randrange(len(mutant))] if rng.random() < 0.1 else mutant)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_broken_files_load_or_are_refused_and_nothing_else(path, layout):
    """`pickle` breaks the pickle within a zip whose check sums are right."""
    data = (FIXTURES / f"{layout.replace('pickle', 'zip')}.pth").read_bytes()
    if layout == "pickle":
        with zipfile.ZipFile(FIXTURES / "zip.pth") as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        storages = {k.split("/")[-1]: v for k, v in parts.items() if "/data/" in k}
        data = parts["zip/data.pkl"]
    loaded, told = 0, set()
    tracemalloc.start()
    for mutant in _mutants(data, 400):
        if layout == "pickle":
            write_zip(path, b"", storages, extra=[("data.pkl", mutant)])
        else:
            path.write_bytes(mutant)
        try:
            torch_pickle.read(path)
            loaded += 1
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            told.add(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert loaded > 5 and len(told) > 5, "the mutants are all alike"
