"""Systems are found by name, loaded with their weights, and started from pretrained ones."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.checkpoints import save_weights
from jaxvos.system import initialise, shapes
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
    with pytest.raises(ValueError, match=r"'cosmet'. There are: agnn"):
        get("cosmet")
    save_weights(tmp_path / "b.safetensors", variables, METADATA | {"system": "other"})
    with pytest.raises(ValueError, match="weights of 'other', not of 'cosnet'"):
        load("cosnet", tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"No weights of 'cosnet' are given.*of 'mover' alone"):
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


def drawn(name, **options):
    """Variables of a system, drawn without compiling anything."""
    rng = np.random.default_rng(0)
    model = get(name).model(**options)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes(get(name), model)
    )


def backbone_tensors(variables, under, names):
    """The published tensors of a backbone: (pattern without groups, path) or a function."""
    tensors = {}
    kinds = {"kernel": "weight", "scale": "slope", "bias": "bias", "mean": "mean", "var": "var"}
    for path, leaf in flatten_dict(variables, sep="/").items():
        inner = path.split("/", 1)[1]
        if inner.startswith(f"{under}/"):
            module, _, kind = inner.removeprefix(f"{under}/").rpartition("/")
            value = leaf.transpose(3, 2, 0, 1) if kind == "kernel" else leaf
            tensors[f"{names(module)}.{kinds[kind]}"] = value
    return tensors


def assert_filled(found, given, start, under):
    for path, value in flatten_dict(found, sep="/").items():
        inside = path.split("/", 1)[1].startswith(f"{under}/")
        expected = flatten_dict(given if inside else start, sep="/")[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)


def test_an_imagenet_vgg_fills_the_static_network(tmp_path):
    variables = drawn("vsod_fcn", width=2)
    numbers = dict(
        zip(
            [
                f"block{b}_conv{i}"
                for b, n in enumerate((2, 2, 3, 3, 3), 1)
                for i in range(1, n + 1)
            ],
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            strict=True,
        )
    )
    tensors = backbone_tensors(variables, "static/vgg", lambda m: f"features.{numbers[m]}")
    tensors |= {"classifier.0.weight": np.zeros((3, 4)), "classifier.0.bias": np.zeros(3)}
    np.savez(tmp_path / "vgg.npz", **tensors)
    found = pretrained(tmp_path / "vgg.npz", "vsod_fcn", other(variables))
    assert_filled(found, variables, other(variables), "static/vgg")


def pspnet_name(module):
    """conv2_1_1x1_reduce/bn of stage2/block0/bn1, conv1_1_3x3_s2 of stem_conv1."""
    kinds = {"1": "1x1_reduce", "2": "3x3", "3": "1x1_increase"}
    if module.startswith("stem"):
        name = f"conv1_{module[-1]}_3x3{'_s2' * (module[-1] == '1')}"
    else:
        stage, block, last = module.split("/")
        kind = "1x1_proj" if last.startswith("project") else kinds[last[-1]]
        name = f"conv{stage[-1]}_{int(block[5:]) + 1}_{kind}"
    return name + "/bn" * ("bn" in module)


@pytest.mark.parametrize("name", ["pdb_convlstm", "ags"])
def test_pspnet_fills_the_resnet(name, tmp_path):
    variables = drawn(name, depths=(1, 1, 1, 1), width=4, size=(33, 49))

    tensors = backbone_tensors(variables, "resnet", pspnet_name)
    tensors |= {"conv5_4.weight": np.zeros((3, 4, 1, 1))}
    np.savez(tmp_path / "psp.npz", **tensors)
    found = pretrained(tmp_path / "psp.npz", name, other(variables))
    assert_filled(found, variables, other(variables), "resnet")


def test_our_own_weights_with_peepholes_of_another_size_are_fitted_with_a_warning(tmp_path):
    small, large = (
        drawn("pdb_convlstm", depths=(1, 1, 1, 1), width=4, size=size)
        for size in ((33, 49), (65, 97))
    )
    save_weights(tmp_path / "a.safetensors", small, METADATA | {"system": "pdb_convlstm"})
    with pytest.warns(UserWarning, match="are resized"):
        found = pretrained(tmp_path / "a.safetensors", "pdb_convlstm", large)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, found, dict(large))
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", ["tmo", "matnet"])
def test_one_backbone_fills_both_streams(name, tmp_path):
    variables = drawn(name, depths=(1, 1, 1, 1), width=4, features=8)
    streams = get(name).backbone.split("+")
    tensors = published(variables, lambda module: resnet_name(module, f"{streams[0]}/"))
    np.savez(tmp_path / "resnet.npz", **tensors)
    found = pretrained(tmp_path / "resnet.npz", name, other(variables))
    for part in ("params", "batch_stats"):
        for stream in streams:
            same = jax.tree.map(
                np.array_equal, found[part][stream], dict(variables[part][streams[0]])
            )
            assert all(jax.tree.leaves(same))
    decoder = found["params"]["decoder"], other(variables)["params"]["decoder"]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *decoder)))


def test_the_readme_says_of_every_system_what_the_command_does():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name, system in SYSTEMS.items():
        assert f"| `{name}` (" in readme
        assert f" | {' | '.join(system.facts)} |\n" in readme, name
