"""Systems are found by name, loaded with their weights, and started from pretrained ones."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.checkpoints import save_weights
from jaxvos.system import initialise
from jaxvos.systems import SYSTEMS, get, load, pretrained
from jaxvos.typing import Video

TINY = {"depths": (2, 1, 1, 1), "width": 4, "branch": 8, "features": 8}
PROTOCOL = {"size": (33, 49), "references": 2}
METADATA = {
    "system": "cosnet",
    "options": json.dumps(TINY),
    "segmenter": json.dumps(PROTOCOL),
    "version": "test",
    "license": "made up",
    "source": "made up",
}


@pytest.fixture(scope="module")
def variables():
    made = initialise(SYSTEMS["cosnet"], SYSTEMS["cosnet"].model(**TINY), 0)
    return jax.device_get(made)


@pytest.fixture
def weights(tmp_path, variables):
    save_weights(tmp_path / "weights.safetensors", variables, METADATA)
    return tmp_path / "weights.safetensors"


def video(count=3):
    rng = np.random.default_rng(1)
    return Video([rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(count)])


def other(variables):
    """The same tree with other numbers."""
    return jax.tree.map(lambda leaf: leaf + 1, variables)


def published(variables, module_names):
    """Tensors of our variables under the published names and in the published layouts."""
    flat, tensors = flatten_dict(variables, sep="/"), {}
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    kinds |= {"bias": "bias", "negative_slope": "weight"}
    for path, leaf in flat.items():
        module, _, kind = path.split("/", 1)[1].rpartition("/")
        name = module_names(module)
        if name is not None:
            if kind == "kernel":
                leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
            tensors[f"{name}.{kinds[kind]}"] = np.atleast_1d(leaf)
    return tensors


def resnet_name(module, prefix="encoder/resnet/"):
    """layer1.0.downsample.1 of encoder/resnet/layer1/block0/project_bn."""
    if not module.startswith(prefix):
        return None
    name = module.removeprefix(prefix).replace("/block", ".").replace("/", ".")
    return name.replace("project_conv", "downsample.0").replace("project_bn", "downsample.1")


def encoder_name(module):
    name = module.removeprefix("encoder/")
    return resnet_name(module) or (
        name.replace("/", ".") if module.startswith("encoder/") else None
    )


def test_a_run_folder_and_its_file_load_alike_with_the_recipes_protocol(weights):
    results = [next(load(weights=w).segmenter()(video())) for w in (weights, weights.parent)]
    np.testing.assert_array_equal(*results)
    assert results[0].shape == (40, 60)


def test_options_reach_the_protocol_and_the_model(weights):
    loaded = load("cosnet", weights)
    plain = next(loaded.segmenter()(video()))
    for options in ({"seed": 3}, {"dtype": "bfloat16"}):
        assert np.abs(next(loaded.segmenter(options)(video())) - plain).max() > 0
    blocks = next(loaded.segmenter({"block": 8, "size": [33, 49]})(video()))
    np.testing.assert_allclose(blocks, plain, atol=1e-5)


def test_an_unknown_option_names_those_there_are(weights):
    with pytest.raises(ValueError, match=r"no option 'refs'.*references"):
        load(weights=weights).segmenter({"refs": 3})


def test_an_unknown_system_and_a_wrong_one_are_refused(weights, tmp_path, variables):
    with pytest.raises(ValueError, match=r"'cosmet'. There are: cosnet"):
        get("cosmet")
    save_weights(tmp_path / "b.safetensors", variables, METADATA | {"system": "other"})
    with pytest.raises(ValueError, match="weights of 'other', not of 'cosnet'"):
        load("cosnet", tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="No weights are given"):
        load("cosnet")


def test_training_starts_from_our_own_weights(weights, variables):
    found = pretrained(weights, "cosnet", other(variables))
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_weights_of_another_size_are_refused_by_name(weights, variables):
    flat = flatten_dict(variables, sep="/")
    flat["params/gate/kernel"] = flat["params/gate/kernel"][:, :, :4]
    with pytest.raises(ValueError, match="params/gate/kernel"):
        pretrained(weights, "cosnet", unflatten_dict(flat, sep="/"))


@pytest.mark.parametrize("kind", ["torchvision", "deeplab"])
def test_backbones_and_encoders_fill_their_part_and_leave_the_rest(kind, variables, tmp_path):
    names = resnet_name if kind == "torchvision" else encoder_name
    tensors = published(variables, names)
    if kind == "torchvision":
        tensors |= {"fc.weight": np.zeros((5, 128)), "fc.bias": np.zeros(5)}
    else:
        tensors = {f"Scale.{name}": value for name, value in tensors.items()}
    np.savez(tmp_path / "published.npz", **tensors)
    found = pretrained(tmp_path / "published.npz", "cosnet", other(variables))
    part = "encoder/resnet/" if kind == "torchvision" else "encoder/"
    for path, value in flatten_dict(found, sep="/").items():
        inside = path.split("/", 1)[1].startswith(part)
        expected = flatten_dict(variables if inside else other(variables), sep="/")[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)
