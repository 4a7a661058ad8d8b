"""Recipes: found by path or name, changed key by key, and fitting the models they are for."""

from functools import partial
from pathlib import Path

import jax
import pytest

from jaxvos import optim
from jaxvos.recipe import flat, model_options, read_recipe, to_json
from jaxvos.system import initialise
from jaxvos.systems import SYSTEMS

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.py"))
COSNET = str(CONFIGS / "cosnet.py")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_optimisers_groups_of_every_recipe_match_the_full_size_model(path):
    for mode in ("", ":smoke"):
        config = read_recipe(f"{path}{mode}")
        system = SYSTEMS[config.system]
        model = system.model(**model_options(config))
        shapes = jax.eval_shape(partial(initialise, system, model, config.seed))["params"]
        optimizer = optim.build(config.optimizer, shapes, steps=10, steps_per_epoch=5)
        memory = jax.eval_shape(optimizer.init, shapes)
        paths = {
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
        }
        held = [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(memory)
        ]
        assert all(any(kept.endswith(path) for kept in held) for path in paths)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_the_same_keys_whatever_its_mode(path):
    assert flat(read_recipe(f"{path}:smoke")).keys() == flat(read_recipe(str(path))).keys()
    with pytest.raises(ValueError, match=r"no mode 'nonsense'; there is 'smoke'"):
        read_recipe(f"{path}:nonsense")


def test_recipes_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    here = to_json(read_recipe(COSNET))
    monkeypatch.chdir(tmp_path)
    assert to_json(read_recipe("cosnet")) == here
    assert to_json(read_recipe("configs/cosnet.py")) == here
    assert to_json(read_recipe("cosnet:smoke")) != here


def test_a_file_of_ones_own_comes_before_the_recipe_of_that_name(tmp_path, monkeypatch):
    text = "from ml_collections import ConfigDict\ndef get_config(mode=''):\n"
    (tmp_path / "cosnet.py").write_text(text + "    return ConfigDict({'mine': mode})\n")
    monkeypatch.chdir(tmp_path)
    assert read_recipe("cosnet.py:yes").mine == "yes"


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no recipe 'cosnest'\. .*: .*cosnet"):
        read_recipe("cosnest")


def test_a_file_without_get_config_is_no_recipe(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"empty\.py is no recipe: it defines no get_config"):
        read_recipe(str(tmp_path / "empty.py"))


def test_changes_keep_the_types_of_the_recipe():
    config = read_recipe(
        COSNET,
        [
            "optimizer.rate=1",
            "data.size=(33,49)",
            "model.depths=[1, 1, 1, 1]",
            "model.remat=true",
            "init=1234",
            "data.videos=a=b",
        ],
    )
    assert config.optimizer.rate == 1.0
    assert isinstance(config.optimizer.rate, float)
    assert config.data.size == (33, 49)
    assert config.model.depths == (1, 1, 1, 1)
    assert config.model.remat is True
    assert config.init == "1234"
    assert config.data.videos == "a=b"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optimiser.rate", "optimizer.rate"),
        ("rate", "optimizer.rate"),
        ("batchsize", "batch"),
        ("log_evry", "log_every"),
        ("data.imageevery", "data.image_every"),
        ("optimizer", "optimizer.power"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(key, nearest):
    with pytest.raises(ValueError, match=rf"no key '{key}'\. The nearest one is '{nearest}'"):
        read_recipe(COSNET, [f"{key}=1"])


@pytest.mark.parametrize(
    ("change", "kind"),
    [("batch=many", "int"), ("batch=1.5", "int"), ("optimizer.rate=fast", "float")],
)
def test_a_value_of_another_type_is_refused(change, kind):
    with pytest.raises(ValueError, match=rf"--set {change}: a value of type {kind} is expected"):
        read_recipe(COSNET, [change])


def test_a_change_without_a_value_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"--set 'batch': write KEY=VALUE, for example"):
        read_recipe(COSNET, ["batch"])


def test_a_recipe_cannot_be_changed_by_accident():
    config = read_recipe(COSNET)
    with pytest.raises(AttributeError):
        config.batchsize = 3


def test_the_type_the_model_computes_in_is_checked_before_a_layer_meets_it():
    assert "dtype" not in model_options(read_recipe(COSNET))
    assert model_options(read_recipe(COSNET, ["model.dtype=bfloat16"]))["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match=r"model\.dtype is 'float33'"):
        model_options(read_recipe(COSNET, ["model.dtype=float33"]))
