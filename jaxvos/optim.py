"""Optimisers as recipes state them: a schedule times a factor for each group of parameters."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

CLIP = 1.0
"""What "adamw" scales longer gradients down to, by the norm of all parameters' together."""

LARGEST = 50.0
"""What "rmsprop" clips each value of the gradient to."""

SCHEDULES = ("poly", "cosine", "one_cycle")
RISE, START = 0.05, 1 / 25
"""Of "one_cycle": the share of the steps for which the rate rises, and what it begins with."""

Groups = Sequence[tuple[str, Sequence[float]]]


def build(
    recipe: ConfigDict, params: Any, *, steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The recipe's optimiser, `recipe` being the "optimizer" part of a configuration.

    "sgd" adds the decay to the gradient before the momentum, as PyTorch does; "adamw" adds it to
    the update, and clips the gradient. "rmsprop" adds it to the gradient, as PyTorch does, after
    clipping each of the gradient's values.
    """
    decay = optax.add_decayed_weights(recipe.weight_decay)
    if recipe.name == "sgd":
        rule = (decay, optax.trace(recipe.momentum))
    elif recipe.name == "adamw":
        rule = (optax.clip_by_global_norm(CLIP), optax.scale_by_adam(), decay)
    elif recipe.name == "rmsprop":
        # PyTorch's constants: it adds epsilon to the root, not under it.
        scale = optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False)
        rule = (optax.clip(LARGEST), decay, scale)
    else:
        raise ValueError(f"optimizer.name is {recipe.name!r}; there are 'sgd', 'adamw', 'rmsprop'.")
    rate = schedule(recipe, steps=steps, steps_per_epoch=steps_per_epoch)
    return optax.chain(*rule, scale_by_groups(rate, recipe.groups, params))


def schedule(
    recipe: ConfigDict, *, steps: int, steps_per_epoch: int
) -> Callable[[jax.Array], jax.Array]:
    """Rate at a step.

    "poly": rate * (1 - step / steps)^power, times `drop` after `drop_after_epochs` (0: never);
    "cosine": rate * (1 + cos(pi step / steps)) / 2;
    "one_cycle": from rate / 25 up to rate in a twentieth of the steps, and down to nearly nothing,
    linearly, as PyTorch's OneCycleLR; all rise linearly over `warmup` steps.
    """
    drop_at = recipe.drop_after_epochs * steps_per_epoch or np.inf

    def rate(step: jax.Array) -> jax.Array:
        left = jnp.clip(1.0 - step / steps, 0.0, 1.0)
        if recipe.schedule == "poly":
            value = left**recipe.power * jnp.where(step >= drop_at, recipe.drop, 1.0)
        elif recipe.schedule == "cosine":
            value = 0.5 * (1 - jnp.cos(jnp.pi * left))
        else:
            up, down = (1.0 - left) / RISE, left / (1 - RISE)
            value = jnp.minimum(START + (1 - START) * up, down)
        return recipe.rate * value * jnp.minimum(1.0, (step + 1) / (recipe.warmup + 1))

    if recipe.schedule not in SCHEDULES:
        known = ", ".join(map(repr, SCHEDULES))
        raise ValueError(f"optimizer.schedule is {recipe.schedule!r}; there are {known}.")
    return rate


def scale_by_groups(
    rate: Callable[[jax.Array], jax.Array], groups: Groups, params: Any
) -> optax.GradientTransformation:
    """Multiplies updates by -rate(step) and their group's factor at this step.

    A group is (regular expression of a whole path like "encoder/bn/scale", factors); step t takes
    factor t modulo their number. The first expression that matches counts; a parameter that none
    matches, and an expression that matches none, is an error: it is a slip in the recipe.
    """
    paths = jax.tree_util.tree_map_with_path(lambda p, _: path_of(p), params)
    choice = jax.tree.map(lambda path: _first_match(path, groups), paths)
    unused = set(range(len(groups))) - set(jax.tree.leaves(choice))
    if unused:
        names = ", ".join(repr(groups[i][0]) for i in sorted(unused))
        raise ValueError(f"Groups of the optimiser that match no parameter: {names}.")

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        now = -rate(state.count)
        factors = [jnp.asarray(f, jnp.float32)[state.count % len(f)] for _, f in groups]
        updates = jax.tree.map(lambda u, i: u * (now * factors[i]).astype(u.dtype), updates, choice)
        return updates, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def path_of(keys: tuple) -> str:
    """ "a/b/c" of a path into a tree of dictionaries."""
    return "/".join(key.key for key in keys)


def _first_match(path: str, groups: Groups) -> int:
    for i, (pattern, _) in enumerate(groups):
        if re.fullmatch(pattern, path):
            return i
    raise ValueError(f"No group of the optimiser matches the parameter {path!r}.")
