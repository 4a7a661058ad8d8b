"""Training runs for the tests: tiny recipes, ways to end a run early, processes to be killed.

    python -m tests.train_process '[["train", {"workdir": "RUN", "wait_before": 6}]]'

does the jobs of the list, each of them a function below with its keywords, and prints what each
returns as a line of JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from data_pipelines import samples
from jaxvos.programs import train as trainer
from jaxvos.programs.watch import NonFiniteLossError
from jaxvos.recipe import read_recipe
from jaxvos.system import Facts, System
from jaxvos.systems import SYSTEMS

ROOT = Path(__file__).parents[1]
CHANGES = (
    "steps=8",
    "log_every=1",
    "checkpoint_every=3",
    "evaluation.every=0",
    "data.steps_per_epoch=4",
    "data.image_every=0",
)
SPEEDS = ("steps_per_s", "images_per_s", "data_wait")


class Speck(nn.Module):
    """The smallest network that has all a trainer can get wrong: a convolution and a BatchNorm."""

    features: int

    @nn.compact
    def __call__(self, target, reference, train=False):
        x = nn.Conv(self.features, (3, 3), use_bias=False, name="conv")(target - reference)
        norm = nn.BatchNorm(not train, use_fast_variance=False, name="bn")
        x = nn.relu(norm(x + target.mean(-1, keepdims=True)))
        return nn.Conv(1, (1, 1), name="classifier")(x)


def _scaled(pictures):
    return pictures.astype(jnp.float32) / 255 - 0.5


def _loss(logits, batch):
    loss = optax.sigmoid_binary_cross_entropy(logits, batch["target_mask"]).mean()
    return loss, {"video_loss": loss}


def _segmenter(model, variables):
    def segment(video):
        for frame in video.frames:
            picture = _scaled(jnp.asarray(frame[None]))
            yield np.asarray(nn.sigmoid(model.apply(variables, picture, picture)))[0, ..., 0]

    return segment


SPECK = System(
    title="Speck",
    model=Speck,
    inputs={"target": _scaled, "reference": _scaled},
    loss=_loss,
    segmenter=_segmenter,
    names=(),
    backbone="",
    facts=Facts("frames", "nothing", "nothing", "none"),
)


def tiny(*changes):
    """Eight video steps of COSNet's smoke mode, a checkpoint every three, no evaluation."""
    return read_recipe(str(ROOT / "configs" / "cosnet.py:smoke"), (*CHANGES, *changes))


def speck(*changes):
    """The same of a network that compiles in no time."""
    config = tiny(*changes)
    with config.unlocked():
        config.system = "speck"
        config.model = ConfigDict({"features": 4})
        config.segmenter = ConfigDict()
        config.optimizer.rate = 0.1
        config.optimizer.groups = ((".*", (1.0,)),)
    return config


def train(workdir, changes=(), devices=None, recipe="speck", wait_before=None):
    """What a run returns; before step `wait_before` it makes "waiting" and waits for "go"."""
    folder = Path(workdir)
    if wait_before:
        before_step(wait_before, lambda: _wait(folder))
    some = None if devices is None else jax.devices()[:devices]
    config = {"speck": speck, "tiny": tiny}[recipe](*changes)
    return trainer.train(config, folder, devices=some, progress=False)


def train_poisoned(workdir, step, process):
    """The message of the error of a run, into whose batch `process` has put a NaN."""
    if jax.process_index() == process:
        poison_step(step)
    try:
        return train(workdir)
    except NonFiniteLossError as error:
        return str(error)


def train_terminated(workdir, step, process, changes=()):
    """What a run returns, in which `process` alone gets SIGTERM before a step."""
    if jax.process_index() == process:
        before_step(step, terminate_oneself)
    return train(workdir, changes)


def before_step(number, action, patch=setattr):
    """Has `action` called before the batch of step `number` is taken."""
    original = samples.Batches.__next__

    def taken(self):
        if self.get_state()["step"] == number - 1:
            action()
        return original(self)

    patch(samples.Batches, "__next__", taken)


def poison_step(number, patch=setattr):
    """Puts a NaN into a mask of step `number`."""
    original = samples.Batches.__next__

    def poisoned(self):
        batch = original(self)
        if self.get_state()["step"] == number:
            batch["target_mask"][0, 0, 0] = np.nan
        return batch

    patch(samples.Batches, "__next__", poisoned)


def terminate_oneself():
    os.kill(os.getpid(), signal.SIGTERM)


def remember_programs(patch=setattr):
    """Has equal runs of this process share their compiled functions, as they are pure."""
    compiled, known = trainer.compiled, {}

    def remembered(config, system, model, mesh, steps, steps_per_epoch):
        key = str((config.optimizer, config.batch_norm, config.seed, model, steps, steps_per_epoch))
        if (key, mesh) not in known:
            known[key, mesh] = compiled(config, system, model, mesh, steps, steps_per_epoch)
        return known[key, mesh]

    patch(trainer, "compiled", remembered)


@contextmanager
def speck_known():
    """Within the block there is a system "speck", and equal runs compile once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "speck", SPECK)
        remember_programs(patch.setattr)
        yield


def start(*jobs, **environment):
    """A process that does the jobs, with the settings and the compilation cache of the tests."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.train_process", json.dumps(jobs)],
        cwd=ROOT,
        env=os.environ | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process, seconds=300.0):
    """Returns once `path` exists; fails with the process's words if it ends before."""
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{path.name} never came:\n{process.communicate()[1][-4000:]}")
        time.sleep(0.02)


def logged(workdir):
    """The lines of metrics.jsonl without the speeds, which differ from run to run."""
    lines = [json.loads(ln) for ln in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines]


def steps_kept(workdir):
    """Steps of the checkpoints, and whatever else lies beside them."""
    return sorted(path.name for path in (Path(workdir) / "checkpoints").iterdir())


def saved(workdir, step):
    """All arrays of a checkpoint's state by path, as numpy."""
    path = Path(workdir) / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def assert_same_bits(some, others):
    assert some.keys() == others.keys()
    for key, value in some.items():
        np.testing.assert_array_equal(value, others[key], err_msg=key, strict=True)


def assert_close(some, others, tolerance):
    compare = jax.tree_util.tree_map_with_path
    compare(
        lambda path, a, b: np.testing.assert_allclose(
            a, b, rtol=tolerance, atol=tolerance, err_msg=str(path)
        ),
        some,
        others,
    )


def _wait(folder):
    (folder / "waiting").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


def main(jobs):
    trainer.start_distributed(False)
    SYSTEMS["speck"] = SPECK
    remember_programs()
    known: Mapping = {f.__name__: f for f in (train, train_poisoned, train_terminated)}
    for name, keywords in jobs:
        original = samples.Batches.__next__
        print(json.dumps(known[name](**keywords)), flush=True)
        samples.Batches.__next__ = original


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
