"""Recipes: the Python files of configs/, found by path or name, changed key by key, checked."""

import ast
import difflib
import json
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict


def read_recipe(recipe: str, changes: Iterable[str] = ()) -> ConfigDict:
    """The locked configuration of "PATH[:mode]" or "NAME[:mode]" after changes like "a.b=c".

    A path that does not exist here stands for the recipe of that name that came with jaxvos, so
    `configs/cosnet.py` and `cosnet` work from any folder.
    """
    path, mode = recipe, ""
    if ":" in recipe and not Path(recipe).exists():
        path, mode = recipe.rsplit(":", 1)
    get_config = runpy.run_path(str(_find(path))).get("get_config")
    if get_config is None:
        raise ValueError(f"{path} is no recipe: it defines no get_config(mode).")
    config = get_config(mode)
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r}: write KEY=VALUE, for example optimizer.rate=1e-3.")
        _set(config, key.strip(), value.strip())
    return config.lock()


def folder() -> Path:
    """Where the recipes that came with jaxvos are: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "configs"


def _find(path: str) -> Path:
    given = Path(path)
    if given.is_file():
        return given
    ours = folder() / (given.name if given.suffix == ".py" else f"{given.name}.py")
    if ours.is_file():
        return ours
    known = ", ".join(sorted(p.stem for p in folder().glob("*.py")))
    raise ValueError(f"There is no recipe {path!r}. Those that came with jaxvos: {known}.")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of a nested configuration."""
    entries = {}
    for key, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[prefix + key] = value
    return entries


def _set(config: ConfigDict, key: str, text: str) -> None:
    known = flat(config)
    if key not in known:
        near = max(known, key=lambda k: _likeness(key, k))
        raise ValueError(f"The recipe has no key {key!r}. The nearest one is {near!r}.")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(known[key], str):
        value = text
    if isinstance(known[key], tuple) and isinstance(value, list):
        value = tuple(value)
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    try:
        node[last] = value
    except TypeError as error:
        kind = type(known[key]).__name__
        raise ValueError(f"--set {key}={text}: a value of type {kind} is expected.") from error


def _likeness(key: str, other: str) -> float:
    """How alike two keys are, also by their last parts: "rate" is like "optimizer.rate"."""
    lasts = key.rpartition(".")[2], other.rpartition(".")[2]
    return sum(difflib.SequenceMatcher(None, *both).ratio() for both in ((key, other), lasts))


def model_options(config: ConfigDict) -> dict[str, Any]:
    """The keywords of the model's constructor; float32 is Flax's own default, so it is left out."""
    options = dict(config.model)
    if options.get("dtype", "float32") == "float32":
        options.pop("dtype", None)
        return options
    try:
        np.dtype(options["dtype"])
    except TypeError as error:  # here, not inside a layer
        raise ValueError(f"model.dtype is {options['dtype']!r}, no type of numbers.") from error
    return options


def to_json(config: ConfigDict) -> str:
    """The configuration as JSON, tuples as lists."""
    return json.dumps(config.to_dict(), indent=1)
