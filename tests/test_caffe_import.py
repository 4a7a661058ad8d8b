"""The weights of a .caffemodel are read without Caffe, and broken files are refused as cheaply."""

import json
import random
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos import caffe_import, systems, torch_import
from jaxvos.checkpoints import read_weights
from jaxvos.layers.peepholes import fit_peepholes
from jaxvos.layers.recurrent import ConvLSTM
from jaxvos.programs.convert import convert
from tests.caffe_files import (
    NEW,
    OLD,
    blob,
    floats,
    layer,
    legacy,
    net,
    shape,
    text,
    varint,
    whole,
)

NUMBERS = np.random.default_rng(0)
MEMORY = 4 * 2**20  # bytes; every file here is far smaller


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel"


def drawn(*dims):
    return NUMBERS.standard_normal(dims, dtype=np.float32)


def found(path, *layers):
    path.write_bytes(net(*layers))
    return caffe_import.read(path)


def refused(path, data) -> str:
    """The message of the one ValueError that reading gives, within bounded memory."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            caffe_import.read(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: not a .caffemodel that can be read: ")
    return str(caught.value)


# What is read.


@pytest.mark.parametrize("message", [OLD, NEW])
@pytest.mark.parametrize("sizes", [shape, lambda dims: shape(dims, packed=False), legacy])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_all_ways_to_write_weights_hold_the_same_numbers(path, message, sizes, packed, double):
    weight, bias = drawn(5, 3, 2, 4), drawn(5)
    blobs = [blob(each, sizes, packed=packed, double=double) for each in (weight, bias)]
    kind = "Convolution" if message == NEW else 4
    tensors = found(path, layer("conv/1", kind, *blobs, message=message))
    assert list(tensors) == ["conv/1.weight", "conv/1.bias"]
    for tensor, expected in zip(tensors.values(), (weight, bias), strict=True):
        np.testing.assert_array_equal(tensor, expected, strict=not double)
        assert tensor.dtype == (np.float64 if double else np.float32)


def test_a_blob_may_come_in_pieces_and_with_its_gradient(path):
    first, second, third = drawn(3), drawn(0), drawn(4)
    pieces = floats(first) + floats(second) + text(6, drawn(7).tobytes())
    pieces += floats(third, packed=False) + text(9, drawn(14).tobytes())
    tensors = found(path, layer("s", "Scale", shape((7,)) + pieces))
    np.testing.assert_array_equal(tensors["s.weight"], np.concatenate([first, third]))


def test_long_rows_of_single_numbers_are_read_whole_and_end_where_they_end(path):
    numbers = drawn(100_003)
    row = floats(numbers[:-1], packed=False) + whole(14, 3) + floats(numbers[-1:], packed=False)
    tensors = found(path, layer("s", "Scale", shape((len(numbers),)) + row))
    np.testing.assert_array_equal(tensors["s.weight"], numbers)


def test_blobs_are_called_by_their_layers_type(path):
    kinds = {
        "Convolution": ("weight", "bias"),
        "Scale": ("weight", "bias"),
        "BN": ("slope", "bias", "mean", "var"),
        "BatchNorm": ("mean", "var", "scale_factor"),
        "PReLU": ("weight",),
        "Data": ("0", "1"),
    }
    layers, expected = [], {}
    for i, (kind, names) in enumerate(kinds.items()):
        blobs = [drawn(4) for _ in names]
        layers.append(layer(f"a{i}", kind, *map(blob, blobs)))
        expected |= {f"a{i}.{name}": each for name, each in zip(names, blobs, strict=True)}
    tensors = found(path, *layers)
    assert list(tensors) == list(expected)
    for name, each in expected.items():
        np.testing.assert_array_equal(tensors[name], each)


def test_flownets_augmentation_gives_its_mean_alone(path):
    blobs = [drawn(1), drawn(1, 3, 5, 6), drawn(1, 3, 1, 1)]
    tensors = found(path, layer("img0s_aug", "DataAugmentation", *map(blob, blobs)))
    assert list(tensors) == ["img0s_aug.mean"] and tensors["img0s_aug.mean"].shape == (3,)


def test_vectors_lose_the_ones_around_them_and_matrices_keep_theirs(path):
    tensors = found(
        path,
        layer("bn", "BN", *(blob(drawn(1, 3, 1, 1)) for _ in range(4))),
        layer("conv", "Convolution", blob(drawn(1, 3, 1, 1)), blob(drawn(1, 1, 1, 1))),
        layer("fc", "InnerProduct", blob(drawn(2, 3), legacy), blob(drawn(2), legacy)),
        layer("row", "InnerProduct", blob(drawn(1, 3), legacy)),
    )
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes == {f"bn.{kind}": (3,) for kind in ("slope", "bias", "mean", "var")} | {
        "conv.weight": (1, 3, 1, 1),
        "conv.bias": (1,),
        "fc.weight": (2, 3),
        "fc.bias": (2,),
        "row.weight": (1, 3),
    }


CELL = {
    "x_weight": (16, 3, 3, 3),
    "h_weight": (16, 4, 3, 3),
    "bias": (16,),
    "peep_i": (5, 6),
    "peep_f": (5, 6),
    "peep_o": (5, 6),
}


def cell_layer(values, dummies=True, sizes=shape):
    """The blobs of the public ConvLSTM layer, or of older ones without the single numbers."""
    x, h, *others = [blob(each, sizes) for each in values.values()]
    one = [blob(drawn(1))] * 2 if dummies else []
    return layer("encode1", "ConvLSTM", x, *one, h, *others, *one)


@pytest.mark.parametrize("sizes", [shape, legacy])
@pytest.mark.parametrize("dummies", [True, False])
def test_the_blobs_of_a_conv_lstm_are_told_by_their_shapes(path, dummies, sizes):
    values = {kind: drawn(*dims) for kind, dims in CELL.items()}
    tensors = found(path, cell_layer(values, dummies, sizes))
    assert list(tensors) == [f"encode1.{kind}" for kind in CELL]
    for kind, value in values.items():
        np.testing.assert_array_equal(tensors[f"encode1.{kind}"], value)


@pytest.mark.parametrize(
    "change", [{"bias": (12,)}, {"h_weight": (16, 3, 3, 3)}, {"peep_o": (5, 6, 2)}]
)
def test_blobs_that_are_no_conv_lstm_keep_their_numbers(path, change):
    values = {kind: drawn(*dims) for kind, dims in (CELL | change).items()}
    assert list(found(path, cell_layer(values, False))) == [f"encode1.{i}" for i in range(6)]


# What is refused.

GOOD = layer("conv", "Convolution", blob(drawn(2, 3)), blob(drawn(2)))
ENDLESS = b"\xff" * 12 + b"\1"


def weights(data: bytes) -> bytes:
    """A file whose one blob is `data`."""
    return net(layer("conv", "Convolution", data))


REFUSED = {
    "It is empty": b"",
    "begins with b'<!DOCTYPE html><": b"<!DOCTYPE html><html>",
    "unknown wire type 6": b"version https://git-lfs.github.com/spec/v1",
    "no layer in it holds weights": text(1, "a net"),
    "or a .caffemodel.h5": net(layer("relu", "ReLU")),
    "has the number 0": b"\0\0",
    "a number does not end": b"\x08" + ENDLESS,
    "ends in the middle of a number": net(GOOD) + b"\xff",
    "4 bytes are due where 3 are left": net(GOOD) + b"\x0a\x04abc",
    f"{2**63} bytes are due": net(GOOD) + b"\x0a" + varint(2**63),
    "8 bytes are due": net(GOOD) + varint(9 << 3 | 1) + b"abc",
    "a layer is of the wire type 0": net(GOOD) + whole(100, 7),
    "two layers called 'conv'": net(GOOD, GOOD),
    "a layer without a name": net(layer("", "Convolution", blob(drawn(2)))),
    "can't decode byte 0xff": net(text(100, text(1, b"\xff"))),
    "in the layer 'conv' a blob of shape (3,) has 2 numbers": weights(shape((3,)) + floats([1, 2])),
    "a blob of shape () has 2 numbers": weights(floats([1, 2])),
    "has 0 numbers": weights(shape((2,))),
    f"a blob of shape ({2**40}": weights(shape((2**40, 2**40)) + floats([1])),
    f"({2**63}, 0)": weights(shape((2**63, 0))),
    f"({2**64 - 2}, {2**64 - 1})": weights(shape((-2, -1)) + floats([1, 2])),
    "(2, 0, 0, 0) has 2 numbers": weights(whole(1, 2) + floats([1, 2])),
    "more than 32 axes": weights(shape((1,) * 100_000) + floats([1])),
    "more than 32 axes ": weights(shape((1,) * 33, packed=False) + floats([1])),
    "numbers of 4 bytes each": weights(shape((1,)) + text(5, b"abc")),
    "numbers of 8 bytes each": weights(shape((1,)) + text(8, b"abcd")),
    "stored as whole ones": weights(shape((1,)) + whole(5, 7)),
    "a size is of the wire type 2": weights(text(1, "a")),
    "a shape is of the wire type 0": weights(whole(7, 3)),
    "more than 64 blobs": net(layer("conv", "Convolution", *[blob([1.0])] * 100)),
    "more than 4000 layers": net(*(layer(f"{i}", "Scale", blob([1.0])) for i in range(4001))),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_file_that_is_not_what_it_should_be_is_refused(path, words):
    assert words.strip() in refused(path, REFUSED[words])


def test_what_claims_much_and_holds_little_takes_little_memory(path):
    nothing = text(5, b"") * 30_000  # pieces of no numbers
    assert "has 0 numbers" in refused(path, weights(shape((2,)) + nothing))
    assert "no layer in it" in refused(path, text(100, b"") * 30_000)
    row = b"".join(floats([1], packed=False) + whole(14, 0) for _ in range(5_000))
    assert "has 5000 numbers" in refused(path, weights(shape((2,)) + row))


def whole_net() -> bytes:
    values = {kind: drawn(*dims) for kind, dims in CELL.items()}
    return net(
        layer("c", "Convolution", blob(drawn(2, 3, 3, 3)), blob(drawn(2), packed=False)),
        layer("old", 4, blob(drawn(2, 3, 1, 1), legacy), blob(drawn(2), legacy), message=OLD),
        layer("bn", "BN", *(blob(drawn(1, 3, 1, 1), double=True) for _ in range(4))),
        cell_layer(values),
    )


def test_a_file_cut_anywhere_is_refused_or_gives_the_layers_before_the_cut(path):
    data = whole_net()
    path.write_bytes(data)
    full = caffe_import.read(path)
    kept = set()
    for length in [*range(0, 500), *range(500, len(data), 97)]:
        path.write_bytes(data[:length])
        try:
            tensors = caffe_import.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        kept.add(len(tensors))
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, full[name])
    assert kept <= {2, 4, 8}


def test_broken_files_load_or_are_refused_and_nothing_else(path):
    data, rng, told, loaded = whole_net(), random.Random(0), set(), 0
    places = [i for i in range(len(data)) if i < 700 or rng.random() < 0.02]
    tracemalloc.start()
    for _ in range(600):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            mutant[rng.choice(places)] = rng.randrange(256)
        path.write_bytes(mutant)
        try:
            caffe_import.read(path)
            loaded += 1
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            told.add(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert loaded > 5 and len(told) > 50, "the mutants are all alike"


# What becomes of it.


class Cell(nn.Module):
    """A network of a convolution, both ways of Caffe to write BatchNorm, and a ConvLSTM."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = {"use_running_average": not train, "epsilon": 1e-5}
        x = nn.BatchNorm(**norm, name="bn1")(nn.Conv(4, (1, 1), use_bias=False, name="conv")(x))
        x = nn.BatchNorm(**norm, name="bn2")(x)
        return ConvLSTM(4, peephole="shared", name="lstm")(x[:, None])[:, 0]


NAMES = (("conv|bn1", r"\g<0>"), ("(bn|scale)_conv", "bn2"), ("encode1", "lstm"))


def cell_file(size=(5, 6)):
    """What a published file of `Cell` would hold, as layers and by name."""
    dims = CELL | {"x_weight": (16, 4, 3, 3)} | {f"peep_{gate}": size for gate in "ifo"}
    cell = {kind: drawn(*each) for kind, each in dims.items()}
    one, two = (
        [drawn(4), drawn(4), drawn(4), drawn(4) ** 2],
        [drawn(4), drawn(4) ** 2, 0.5 + drawn(1) ** 2],
    )
    weight, scale = drawn(4, 3, 1, 1), [drawn(4), drawn(4)]
    layers = [
        layer("conv", "Convolution", blob(weight)),
        layer("bn1", "BN", *(blob(each.reshape(1, -1, 1, 1)) for each in one)),
        layer("bn_conv", "BatchNorm", *map(blob, two)),
        layer("scale_conv", "Scale", *map(blob, scale)),
        cell_layer(cell),
    ]
    return layers, weight, one, two, scale, cell


def shapes(size=(5, 6)):
    return jax.eval_shape(Cell().init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_every_kind_of_blob_finds_its_place_in_our_variables(path):
    layers, weight, one, two, scale, cell = cell_file()
    path.write_bytes(net(*layers))
    made = torch_import.to_variables(torch_import.read(path), NAMES, shapes())
    params, statistics = made["params"], made["batch_stats"]
    factor = 1 / two[2]
    expected = {
        "conv": (params["conv"]["kernel"][0, 0], weight[..., 0, 0].T),
        "slope": (params["bn1"]["scale"], one[0]),
        "bn bias": (params["bn1"]["bias"], one[1]),
        "mean": (statistics["bn1"]["mean"], one[2]),
        "var": (statistics["bn1"]["var"], one[3]),
        "sums of means": (statistics["bn2"]["mean"], two[0] * factor),
        "sums of variances": (statistics["bn2"]["var"], two[1] * factor),
        "scale": (params["bn2"]["scale"], scale[0]),
        "shift": (params["bn2"]["bias"], scale[1]),
        "x": (params["lstm"]["x_conv"]["kernel"], cell["x_weight"].transpose(2, 3, 1, 0)),
        "h": (params["lstm"]["h_conv"]["kernel"], cell["h_weight"].transpose(2, 3, 1, 0)),
        "lstm bias": (params["lstm"]["bias"], cell["bias"]),
        **{p: (params["lstm"][f"peephole_{p}"], cell[f"peep_{p}"]) for p in "ifo"},
    }
    for what, (ours, theirs) in expected.items():
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=what)


def test_statistics_that_were_never_gathered_are_zero_as_in_caffe():
    sums = {
        "a.mean": drawn(2),
        "a.var": drawn(2),
        "a.scale_factor": np.zeros(1),
        "b.mean": drawn(1),
    }
    averaged = caffe_import.averaged(sums)
    assert list(averaged) == ["a.mean", "a.var", "b.mean"]
    assert not averaged["a.mean"].any() and not averaged["a.var"].any() and averaged["b.mean"].any()


def test_peepholes_of_another_size_are_resized_with_a_warning(path):
    layers, *_, cell = cell_file(size=(3, 4))
    path.write_bytes(net(*layers))
    with pytest.warns(UserWarning, match="on maps of 3 x 4 are resized to 5 x 7"):
        made = torch_import.to_variables(torch_import.read(path), NAMES, shapes((5, 7)))
    ours = made["params"]["lstm"]["peephole_f"]
    np.testing.assert_allclose(ours[::2, ::2], cell["peep_f"], rtol=1e-6)
    middle = (cell["peep_f"][:, :-1] + cell["peep_f"][:, 1:]) / 2
    np.testing.assert_allclose(ours[::2, 1::2], middle, atol=1e-6)
    with pytest.warns(UserWarning, match="on maps of 5 x 7 are resized to 3 x 4"):
        back = fit_peepholes(made, (3, 4))
    np.testing.assert_allclose(back["params"]["lstm"]["peephole_f"], cell["peep_f"], rtol=1e-6)
    assert back["params"]["conv"] is made["params"]["conv"] or np.array_equal(
        back["params"]["conv"]["kernel"], made["params"]["conv"]["kernel"]
    )
    assert fit_peepholes(made, (5, 7)) is made  # and no warning


def test_a_published_caffemodel_becomes_a_file_of_ours(path, monkeypatch, capsys):
    inputs = {"picture": lambda x: x}
    tiny = systems.SYSTEMS["cosnet"]._replace(
        model=Cell,
        inputs=inputs,
        names=NAMES,
        shapes=lambda model: {"picture": (1, 5, 6, 3)},
    )
    monkeypatch.setitem(systems.SYSTEMS, "tiny", tiny)
    layers, *_, cell = cell_file()
    path.write_bytes(net(*layers))
    target = path.with_suffix(".safetensors")
    convert("tiny", path, target, license_note="CC0")
    assert "16 tensors" in capsys.readouterr().out
    variables, metadata = read_weights(target)
    np.testing.assert_array_equal(variables["params"]["lstm"]["peephole_i"], cell["peep_i"])
    assert metadata["source"].startswith("net.caffemodel, sha256 ")
    loaded = systems.load("tiny", target)
    assert json.loads(loaded.metadata["options"]) == {}
    answer = loaded.model.apply(loaded.variables, np.ones((1, 5, 6, 3), np.float32))
    assert answer.shape == (1, 5, 6, 4) and np.isfinite(answer).all()


def test_a_caffemodel_of_another_network_is_refused_with_what_does_not_fit(path, monkeypatch):
    path.write_bytes(net(GOOD))
    with pytest.raises(ValueError, match=r"\+ conv.bias \(2,\): nothing of ours") as caught:
        torch_import.to_variables(torch_import.read(path), NAMES, shapes())
    assert "- params/lstm/x_conv/kernel (3, 3, 4, 16): not in the checkpoint" in str(caught.value)
