"""Published names and layouts become our variable trees, and every name is accounted for."""

import io
import json
import zipfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxvos import torch_import
from jaxvos.layers.resnet import ResNet
from tests.torch_files import dump, tensor, write_zip

FIXTURES = Path(__file__).parent / "fixtures"
NUMBERS = np.random.default_rng(0)


def shaped(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def drawn(*shape):
    return NUMBERS.standard_normal(shape, dtype=np.float32)


# What a published file may look like.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_wrappers_prefixes_and_batch_counters_are_taken_off(layout):
    expected = json.loads((FIXTURES / "expected.json").read_text())
    found = torch_import.read(FIXTURES / f"{layout}.pth")
    names = [name.removeprefix("module.") for name in expected]
    assert list(found) == [name for name in names if not name.endswith("num_batches_tracked")]
    np.testing.assert_array_equal(found["fc.weight"], np.float32(expected["module.fc.weight"]))


def test_a_prefix_that_not_all_names_have_is_kept(tmp_path):
    np.savez(tmp_path / "a.npz", **{"module.a.weight": drawn(2), "b.weight": drawn(2)})
    assert list(torch_import.read(tmp_path / "a.npz")) == ["module.a.weight", "b.weight"]


def test_safetensors_and_npz_hold_what_was_saved(tmp_path):
    tensors = {"a.weight": drawn(2, 3), "b.bias": np.arange(3).astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    tensors["f.weight"], tensors["g.weight"] = np.asfortranarray(drawn(2, 3)), drawn(0, 5)
    tensors["b.bias"] = np.arange(3)
    np.savez_compressed(tmp_path / "a.npz", **tensors)
    for file, count in (("a.safetensors", 2), ("a.npz", 4)):
        found = torch_import.read(tmp_path / file)
        assert len(found) == count
        for name, array in found.items():
            np.testing.assert_array_equal(array, tensors[name])
            assert array.dtype == tensors[name].dtype or name == "b.bias"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"epoch": 3, "optim": {}}, "'epoch' is int, not a tensor of numbers"),
        ({"model": {"a.weight": "text"}}, "'a.weight' is str"),
        ({"model": {"a": tensor()}, "net": {"b": tensor()}}, "several state dicts: model, net"),
        ([tensor()], "holds list, not a dictionary"),
        ({"state_dict": {}}, "holds dict, not a dictionary"),
        ({7: tensor()}, "7 is float32"),
    ],
)
def test_a_file_without_one_state_dict_is_refused(tmp_path, value, words):
    write_zip(tmp_path / "a.pth", dump(value))
    with pytest.raises(ValueError, match=words) as caught:
        torch_import.read(tmp_path / "a.pth")
    assert str(caught.value).startswith(str(tmp_path / "a.pth"))


def test_a_pickle_in_an_npz_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz: .*object does not fit"):
        torch_import.read(tmp_path / "a.npz")


def test_an_npz_that_claims_more_than_it_holds_is_refused(tmp_path):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", array.getvalue() + bytes(8))
    with pytest.raises(ValueError, match=rf"a\.npz: an array \({2**40},\) of float32"):
        torch_import.read(tmp_path / "a.npz")


def test_an_npz_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"a\.npz: .*over 20 times the file's size"):
        torch_import.read(tmp_path / "a.npz")


def test_broken_and_unknown_files_are_named(tmp_path):
    for file in ("a.npz", "a.safetensors", "a.pth", "a.onnx"):
        (tmp_path / file).write_bytes(b"PK\3\4 and then nothing")
        with pytest.raises(ValueError, match=str(tmp_path / file)):
            torch_import.read(tmp_path / file)


# Names and layouts.


def test_leaves_are_laid_out_by_kind():
    conv, dense, slope = drawn(5, 3, 2, 4), drawn(3, 3), drawn(1)
    bn = {k: drawn(5) for k in ("weight", "bias", "running_mean", "running_var")}
    tensors = {"c.weight": conv, "c.bias": drawn(5), "l.weight": dense, "p.weight": slope}
    tensors |= {f"n.{k}": v for k, v in bn.items()} | {"token": drawn(1, 3)}
    target = {
        "params": {
            "conv": shaped(kernel=(2, 4, 3, 5), bias=(5,)),
            "dense": shaped(kernel=(3, 3)),
            "prelu": shaped(negative_slope=()),
            "norm": shaped(scale=(5,), bias=(5,)),
            "top": shaped(token=(1, 3)),
        },
        "batch_stats": {"norm": shaped(mean=(5,), var=(5,))},
    }
    names = (("c", "conv"), ("l", "dense"), ("p", "prelu"), ("n", "norm"), ("", "top"))
    ours = torch_import.to_variables(tensors, names, target)
    params, stats = ours["params"], ours["batch_stats"]["norm"]
    assert params["conv"]["kernel"][1, 3, 2, 4] == conv[4, 2, 1, 3]
    np.testing.assert_array_equal(params["conv"]["kernel"], np.einsum("oihw->hwio", conv))
    np.testing.assert_array_equal(params["dense"]["kernel"], dense.T)  # square, yet transposed
    assert params["prelu"]["negative_slope"] == slope[0]
    np.testing.assert_array_equal(params["norm"]["scale"], bn["weight"])
    np.testing.assert_array_equal(params["norm"]["bias"], bn["bias"])
    np.testing.assert_array_equal(stats["mean"], bn["running_mean"])
    np.testing.assert_array_equal(stats["var"], bn["running_var"])
    np.testing.assert_array_equal(params["top"]["token"], tensors["token"])


def test_whatever_type_was_published_float32_comes_out():
    kinds = (np.float64, np.float16, ml_dtypes.bfloat16, np.int64)
    tensors = {f"m{i}.bias": np.arange(3).astype(kind) for i, kind in enumerate(kinds)}
    target = {"params": {f"m{i}": shaped(bias=(3,)) for i in range(len(kinds))}}
    ours = torch_import.to_variables(tensors, ((r"(m\d)", r"\1"),), target)
    for leaf in jax.tree.leaves(ours):
        assert leaf.dtype == np.float32 and leaf.tolist() == [0, 1, 2]


def test_the_first_pattern_that_matches_the_whole_name_counts():
    names = (("a", "wrong"), (r"a\.(\d)", r"first/\1"), (r"a\..*", "second"))
    target = {"params": {"first": {"1": shaped(bias=(2,))}}}
    ours = torch_import.to_variables({"a.1.bias": np.ones(2)}, names, target)
    assert ours["params"]["first"]["1"]["bias"].tolist() == [1, 1]


def test_one_error_lists_all_that_does_not_fit():
    tensors = {
        "gate.weight": np.zeros((1, 256, 1, 1)),
        "head.weight": np.zeros((1, 512, 1, 1)),
        "bn.bias": np.zeros(3),
        "bn_again.bias": np.ones(3),
        "bn.running_mean": np.zeros(3),
    }
    target = {
        "params": {
            "attend": {"gate": shaped(kernel=(1, 1, 256, 1))},
            "head": shaped(kernel=(1, 1, 256, 1)),
            "bn": shaped(bias=(3,)),
        }
    }
    names = (("head", "head"), (r"bn.*", "bn"))
    with pytest.raises(ValueError) as caught:
        torch_import.to_variables(tensors, names, target)
    assert str(caught.value) == "\n".join(
        (
            "The checkpoint does not fit:",
            "+ gate.weight (1, 256, 1, 1): nothing of ours",
            "+ bn.running_mean (3,): nothing of ours",
            "- params/attend/gate/kernel (1, 1, 256, 1): not in the checkpoint",
            "! head.weight (1, 512, 1, 1): ours is params/head/kernel (1, 1, 256, 1)",
            "! bn_again.bias (3,): params/bn/bias is bn.bias already",
        )
    )


# Backbones.


def torchvision(depths, width):
    """A bottleneck ResNet in torchvision's names and layouts, of random numbers."""
    tensors, channels = {}, width

    def layer(conv, bn, out, inside, size):
        tensors[f"{conv}.weight"] = drawn(out, inside, size, size)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{bn}.{leaf}"] = drawn(out)

    layer("conv1", "bn1", width, 3, 7)
    for stage, depth in enumerate(depths):
        middle = width * 2**stage
        for i in range(depth):
            block = f"layer{stage + 1}.{i}"
            layer(f"{block}.conv1", f"{block}.bn1", middle, channels, 1)
            layer(f"{block}.conv2", f"{block}.bn2", middle, middle, 3)
            layer(f"{block}.conv3", f"{block}.bn3", 4 * middle, middle, 1)
            if i == 0:
                layer(f"{block}.downsample.0", f"{block}.downsample.1", 4 * middle, channels, 1)
            channels = 4 * middle
    return tensors | {"fc.weight": drawn(10, channels), "fc.bias": drawn(10)}


@pytest.fixture(scope="module")
def variables():
    model = ResNet(depths=(1, 2, 1, 1), width=4)
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 33, 49, 3)))
    resnet = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    others = {"head": {"bias": np.full(3, 7.0)}}
    return {
        "params": {"encoder": {"resnet": resnet["params"]}, **others},
        "batch_stats": {"encoder": {"resnet": resnet["batch_stats"]}},
    }


def test_a_torchvision_backbone_fills_the_encoder_and_nothing_else(variables):
    tensors = torchvision((1, 2, 1, 1), 4)
    names = torch_import.TORCHVISION_RESNET
    filled, loaded = torch_import.fill(variables, tensors, names, under="encoder/resnet")
    assert filled["params"]["head"]["bias"].tolist() == [7, 7, 7]
    block = filled["params"]["encoder"]["resnet"]["layer2"]["block0"]
    downsample = tensors["layer2.0.downsample.0.weight"]
    np.testing.assert_array_equal(block["project_conv"]["kernel"][0, 0], downsample[:, :, 0, 0].T)
    stats = filled["batch_stats"]["encoder"]["resnet"]["layer2"]["block1"]["bn3"]
    np.testing.assert_array_equal(stats["var"], tensors["layer2.1.bn3.running_var"])
    assert len(loaded) == len(tensors) - 2  # all but fc
    assert all("/encoder/resnet/" in path for path in loaded)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(variables["params"]["encoder"]))


def test_a_backbone_of_another_depth_does_not_fit(variables):
    tensors, names = torchvision((1, 1, 1, 2), 4), torch_import.TORCHVISION_RESNET
    with pytest.raises(ValueError) as caught:
        torch_import.fill(variables, tensors, names, under="encoder/resnet")
    assert "+ layer4.1.conv2.weight (32, 32, 3, 3): nothing of ours" in str(caught.value)
    assert "- params/layer2/block1/conv1/kernel" in str(caught.value)
    assert "fc" not in str(caught.value)
    with pytest.raises(ValueError, match="no module 'decoder'"):
        torch_import.fill(variables, tensors, names, under="decoder")


def test_a_module_may_be_published_under_two_names():
    tensors = {name: np.arange(3.0) for name in ("norm3.bias", "downsample.1.bias")}
    names = ((r"norm3|downsample\.1", "bn"),)
    made = torch_import.to_variables(tensors, names, {"params": {"bn": shaped(bias=(3,))}})
    np.testing.assert_array_equal(made["params"]["bn"]["bias"], np.arange(3))


def test_what_has_an_empty_place_is_left_aside():
    tensors = {"bn.bias": np.arange(3.0), "encoder.mean": np.ones(3)}
    names = (("bn", "bn"), ("encoder", ""))
    made = torch_import.to_variables(tensors, names, {"params": {"bn": shaped(bias=(3,))}})
    assert list(made) == ["params"] and list(made["params"]) == ["bn"]
