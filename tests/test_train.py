"""Training: what a step does, on however many devices, and what stops a run."""

import json
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.video_records import VideoRecord
from jaxvos.flow.fields import LEARNED, with_flow
from jaxvos.programs import train as trainer
from jaxvos.programs.watch import NonFiniteLossError, Watch
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise
from jaxvos.systems import SYSTEMS, load
from jaxvos.typing import Video
from tests.train_process import (
    ROOT,
    SPECK,
    assert_close,
    before_step,
    logged,
    poison_step,
    saved,
    speck,
    speck_known,
    steps_kept,
    terminate_oneself,
    tiny,
    train,
)

RECIPES = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture(autouse=True, scope="module")
def speck_is_known():
    with speck_known():
        yield


# --- one step, on one device and on more -------------------------------------------------------


def first_batch(config):
    with ExitStack() as stack:
        return next(stack.enter_context(trainer._batches(config)))


def first_step(config, devices):
    """(state, metrics) of a new run's first step on so many devices, as numpy."""
    system = SYSTEMS[config.system]
    model = system.model(**model_options(config))
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    program = trainer.compiled(config, system, model, mesh, 8, 4)
    state = program.make(jax.device_get(initialise(system, model, config.seed)))
    batch = first_batch(config)
    batch.pop("names")
    return jax.device_get(program.step(state, trainer.placed(batch, mesh)))


def test_a_step_goes_down_the_gradient_and_takes_in_the_batchs_statistics():
    config = speck()
    model, batch = SPECK.model(features=4), first_batch(config)
    variables = initialise(SPECK, model, config.seed)
    pictures = [prepare(jnp.asarray(batch[name])) for name, prepare in SPECK.inputs.items()]

    def loss(params):
        new = variables | {"params": params}
        logits, changed = model.apply(new, *pictures, train=True, mutable=["batch_stats"])
        return SPECK.loss(logits, batch)[0], changed["batch_stats"]

    (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    decay, rate = config.optimizer.weight_decay, config.optimizer.rate
    params = jax.tree.map(lambda p, g: p - rate * (g + decay * p), variables["params"], grads)
    state, metrics = first_step(config, 1)
    assert int(state.step) == 1
    assert_close(state.params, params, 1e-6)
    assert_close(state.statistics, statistics, 1e-6)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads)))
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-6)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.slow
def test_cosnets_first_step_is_the_same_on_1_and_on_8_devices():
    assert_close(first_step(tiny(), 1), first_step(tiny(), 8), 1e-5)


def test_batch_norm_by_device_is_the_global_one_on_one_device_and_another_on_eight():
    by_device, everywhere = speck("batch_norm=device"), speck()
    assert_close(first_step(by_device, 1), first_step(everywhere, 1), 1e-6)
    (ours, _), (theirs, _) = first_step(by_device, 8), first_step(everywhere, 8)
    ours, theirs = ours.statistics["bn"], theirs.statistics["bn"]
    np.testing.assert_allclose(ours["mean"], theirs["mean"], rtol=1e-5, atol=1e-6)
    # The variance of the whole batch is that of its parts and, besides, that of their means.
    assert (ours["var"] < theirs["var"] - 1e-5).all()


@pytest.mark.parametrize("devices", [4, 1])
def test_a_run_saved_on_8_devices_goes_on_with_fewer(tmp_path, devices, monkeypatch):
    whole = train(tmp_path / "whole", devices=8)
    with monkeypatch.context() as patch:
        before_step(5, terminate_oneself, patch.setattr)
        assert train(tmp_path / "moved", devices=8)["step"] == 5
    assert train(tmp_path / "moved", devices=devices)["step"] == whole["step"] == 8
    logs = logged(tmp_path / "whole"), logged(tmp_path / "moved")
    assert logs[0][:5] == logs[1][:5]
    for ours, theirs in zip(*logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = saved(tmp_path / "whole", 8), saved(tmp_path / "moved", 8)
    assert ours["step"] == theirs["step"]
    for path, value in ours.items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-4, atol=1e-5, err_msg=path)


# --- what stops a run --------------------------------------------------------------------------


def test_a_non_finite_loss_names_its_step_and_records_and_saves_nothing_bad(tmp_path, monkeypatch):
    names = []
    poison_step(5, monkeypatch.setattr)
    monkeypatch.setattr(Watch, "add", noting(Watch.add, names))
    with pytest.raises(NonFiniteLossError, match=r"^Step 5 has a loss of nan; it is not saved"):
        train(tmp_path, ["log_every=100"])
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert report["step"] == 5
    assert report["records"] == names[4].tolist()
    assert report["numbers"]["loss"] == "nan"
    assert steps_kept(tmp_path) == ["3"]
    assert [line["step"] for line in logged(tmp_path)] == [3]
    assert load(weights=tmp_path).metadata["step"] == "3"
    assert all(np.isfinite(value).all() for value in saved(tmp_path, 3).values())


def noting(add, names):
    def add_noted(self, number, batch_names, metrics):
        names.append(batch_names)
        add(self, number, batch_names, metrics)

    return add_noted


def test_a_gradient_that_is_not_finite_stops_a_run_as_a_loss_does():
    class Run:
        bad_batch = Path("non_finite.json")
        kept = None

        def keep_bad_batch(self, step, numbers, records):
            self.kept = step, records

    run = Run()
    watch = Watch(run)
    for number, norm in ((1, 2.0), (2, np.inf), (3, np.nan)):
        metrics = {"loss": jnp.float32(0.5), "gradient_norm": jnp.float32(norm)}
        watch.add(number, np.array([f"clip/{number}"]), metrics)
    with pytest.raises(NonFiniteLossError, match=r"^Step 2 has a gradient_norm of inf"):
        watch.checked()
    assert run.kept == (2, ["clip/2"])


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch of 6 cannot be shared by 4 devices"):
        train(tmp_path, ["batch=6"], devices=4)


def test_an_evaluation_that_cannot_be_made_is_an_error_before_the_first_step(tmp_path):
    changes = ["evaluation.every=4", "evaluation.videos=no_such_folder"]
    with pytest.raises(ValueError, match=r"no_such_folder"):
        train(tmp_path, changes)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_mean_j_is_one_over_videos_of_means_over_frames():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3] = 2  # an object's number: whatever is not 0 counts
    whole, half, none = np.float32(mask > 0), np.float32(mask > 0), np.zeros((4, 6), np.float32)
    half[1] = 0.5  # not above the threshold
    predicted = {"long": [whole, half, half, none], "short": [whole]}
    seen = []

    def segmenter(model, variables, *, size):
        seen.append((model, float(variables["params"]["w"]), size))
        return lambda video: iter(predicted[video.name])

    videos = [VideoRecord(name, [None] * len(p), [mask] * len(p)) for name, p in predicted.items()]
    variables = {"params": {"w": jax.device_put(jnp.float32(3), jax.devices()[1])}}
    config = ConfigDict({"segmenter": {"size": (33, 49)}})
    j = trainer.mean_j(SPECK._replace(segmenter=segmenter), "model", variables, videos, config)
    assert j == pytest.approx((0.5 + 1.0) / 2)
    assert seen == [("model", 3.0, (33, 49))]


def test_a_run_that_is_done_is_done(tmp_path):
    train(tmp_path, devices=1)
    lines = logged(tmp_path)
    again = train(tmp_path, devices=1)
    assert (again["step"], again["stopped"]) == (8, False)
    assert logged(tmp_path) == lines


# --- recipes -----------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_smoke_mode_of_every_recipe_leaves_weights_that_segment_a_video(path, tmp_path):
    config = read_recipe(f"{path}:smoke")
    result = trainer.train(config, tmp_path, devices=jax.devices()[:1], progress=False)
    assert result["step"] == result["steps"] == 2
    loaded = load(weights=tmp_path)
    measured = f"{result['J']:.6f}" if config.evaluation.every else "not measured"
    assert loaded.metadata["J"] == measured
    assert (loaded.name, loaded.metadata["step"]) == (config.system, "2")
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    if config.system in LEARNED:  # what others see motion by
        flow = with_flow(Video(frames), f"{config.system}:{tmp_path}").flow
        assert [field.shape for field in flow] == [(40, 60, 2)] * 2
        return
    video = with_flow(Video(frames), "dis") if "flow" in loaded.system.reads else Video(frames)
    scores = list(loaded.segmenter()(video))
    assert [score.shape for score in scores] == [(40, 60)] * 3
    assert all(((score >= 0) & (score <= 1)).all() for score in scores)
