"""FusionSeg's streams, protocol, loss and files; its arithmetic is pinned by tests/parity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxvos.flow.colour import picture
from jaxvos.flow.fields import with_flow
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import fusionseg
from jaxvos.torch_import import to_variables
from jaxvos.typing import Video
from tests.caffe_files import blob, layer, net

TINY = {"depths": (1, 1, 1, 1), "width": 4, "rates": (1, 2)}
FRAME = (30, 45)  # answers end at 25 and 41 without a canvas of another size
CANVAS = (26, 38)


def video(count: int, size: tuple[int, int] = FRAME) -> Video:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    return Video(frames, [rng.normal(0, 4, (*size, 2)).astype(np.float32) for _ in frames[1:]])


@pytest.fixture(scope="module")
def tiny():
    model = fusionseg.FusionSeg(**TINY)
    variables = initialise(fusionseg.SYSTEM, model, 0)
    # So that no answer is so sure that it is numb.
    for name, leaves in variables["params"].items():
        for part, kernel in leaves.items():
            if part.startswith(("fc1", "conv")):
                kernel["kernel"] *= 20 if name == "joint" else 0.4
    return model, variables


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, frames, flow, train=False):
    """The outputs and changed statistics of prepared clips."""
    return model.apply(variables, frames, flow, train=train, mutable=["batch_stats"])


# --- flow as a picture -------------------------------------------------------------------------


def test_rest_is_white_and_the_longest_never_darker_than_full():
    rest = np.zeros((2, 3, 2))
    assert (picture(rest, eps=fusionseg.EPS) == 255).all()
    assert (wheel_picture(jnp.asarray(rest), eps=fusionseg.EPS) == 255).all()
    for longest in ((7.25, 4.75), (7.25, 6.0)):  # whose unit vectors are above 1, rounded
        whole = np.full((1, 1, 2), longest)
        assert picture(whole, eps=fusionseg.EPS).max() >= 254
        assert float(wheel_picture(jnp.asarray(whole), eps=fusionseg.EPS).max()) >= 254


def test_small_flow_has_colours_as_full_as_large_flow():
    field = np.random.default_rng(0).normal(size=(8, 9, 2))
    for scale in (1e-6, 1e3):
        ours = picture(scale * field, eps=fusionseg.EPS).astype(int)
        np.testing.assert_allclose(ours, picture(field, eps=fusionseg.EPS), atol=1)
        on_device = wheel_picture(jnp.asarray(scale * field), eps=fusionseg.EPS)
        np.testing.assert_allclose(on_device, ours, atol=1)
    drowned = picture(1e-6 * field).min()  # by the usual constant
    assert drowned > 150 > ours.min()


# --- network and loss --------------------------------------------------------------------------


def by_hand(x, kernel, bias, pad):
    """A convolution [h, w, C] -> [h, w, D], a place at a time."""
    side = len(kernel)
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    out = np.zeros((len(x) - side + 1, x.shape[1] - side + 1, kernel.shape[-1]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = np.tensordot(x[i : i + side, j : j + side], kernel, 3) + bias
    return out


@pytest.mark.parametrize("paper", [False, True])
def test_the_joint_stream_is_that_of_its_equations(paper):
    rng = np.random.default_rng(0)
    a, m = (rng.normal(size=(5, 7, 2)) for _ in range(2))
    side, channels = (1, 2) if paper else (3, 4)
    ins = {"conv1": 2 if paper else 4, "conva": 2, "convm": 2}
    drawn = lambda i, o: (rng.normal(size=(side, side, i, o)), rng.normal(size=o))  # noqa: E731
    weights = {name: drawn(i, channels) for name, i in ins.items()}
    fed = {"conv1": a * m if paper else np.concatenate([a, m], axis=-1), "conva": a, "convm": m}
    pad = side // 2
    seen = [np.maximum(by_hand(fed[k], *weights[k], pad), 0) for k in ins]
    if paper:
        expected = np.max(seen, axis=0)
    else:
        weights["conv2"] = drawn(4, 2)
        expected = by_hand(sum(seen), *weights["conv2"], pad)
    params = {k: {"kernel": w, "bias": b} for k, (w, b) in weights.items()}
    ours = fusionseg.Joint(paper, None).apply(
        {"params": params}, *(jnp.asarray(x, jnp.float32)[None] for x in (a, m))
    )
    np.testing.assert_allclose(ours[0], expected, atol=1e-4)


def test_a_stream_answers_on_every_eighth_pixel_and_between(tiny):
    model, variables = tiny
    for size, answered in (((289, 513), (289, 513)), ((480, 854), (481, 849))):
        pictures = jnp.zeros((1, *size, 3))
        found = jax.eval_shape(partial(look, model, stream="motion"), variables, pictures)
        assert found.shape == (1, *answered, 2)


@pytest.mark.parametrize(
    ("stream", "frames", "seen"),
    [("appearance", 3, "frames"), ("motion", 2, "flow"), ("joint", 2, "both")],
)
def test_each_stream_answers_of_what_it_is_for(tiny, stream, frames, seen):
    model, variables = tiny
    model = model.copy(stream=stream)
    pictures, flow = (30 * jax.random.normal(jax.random.key(i), (1, 3, 33, 49, 3)) for i in (0, 1))
    (logits,) = run(model, variables, pictures, flow)[0].values()
    assert logits.shape == (1, frames, 33, 49, 1)
    for changed, other in (("frames", (pictures[..., ::-1], flow)), ("flow", (pictures, 0 * flow))):
        (found,) = run(model, variables, *other)[0].values()
        assert bool((found != logits).any()) == (seen in (changed, "both"))


def test_the_last_of_several_frames_does_not_count_where_motion_does(tiny):
    model, variables = tiny
    pictures = 30 * jax.random.normal(jax.random.key(0), (1, 3, 33, 49, 3))
    first = run(model, variables, pictures, pictures)[0]["joint"]
    changed = pictures.at[:, 2].add(9.0)
    np.testing.assert_array_equal(run(model, variables, changed, changed)[0]["joint"], first)


def test_statistics_stay_in_training_unless_they_are_asked_to_move(tiny):
    model, variables = tiny
    pictures = 30 * jax.random.normal(jax.random.key(0), (1, 3, 33, 49, 3))
    for fixed in (True, False):
        own = model.copy(stream="motion", fixed_norm=fixed)
        after = run(own, variables, pictures, pictures, train=True)[1]["batch_stats"]
        before = variables["batch_stats"]
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), after, before)
        assert not any(jax.tree.leaves(moved["appearance"]))
        assert any(jax.tree.leaves(moved["motion"])) != fixed


def test_a_step_of_the_joint_stream_teaches_it_alone(tiny):
    model, variables = tiny
    pictures = 30 * jax.random.normal(jax.random.key(0), (1, 2, 33, 49, 3))
    masks = (pictures[..., :1] > 0).astype(jnp.float32)

    @jax.jit
    def moved(params):
        def value(params):
            outputs = model.apply({**variables, "params": params}, pictures, pictures)
            return fusionseg.loss(outputs, {"masks": masks})[0]

        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(value)(params))

    found = moved(variables["params"])
    assert all(g == 0 for part in ("appearance", "motion") for g in jax.tree.leaves(found[part]))
    assert all(g > 0 for g in jax.tree.leaves(found["joint"]))


def test_loss_is_of_the_pixels_and_frames_that_are_answered():
    logits = jnp.zeros((1, 1, 2, 2, 1)).at[0, 0, 0].set(3.0)
    masks = jnp.zeros((1, 2, 3, 4, 1)).at[:, 0, :1].set(1.0)
    total, metrics = fusionseg.loss({"motion": logits}, {"masks": masks})
    np.testing.assert_allclose(total, (np.log(1 + np.exp(-3)) + np.log(2)) / 2, rtol=1e-6)
    assert metrics.keys() == {"motion_loss"}
    still, _ = fusionseg.loss({"appearance": logits}, {"mask": masks[:, 0]})
    np.testing.assert_allclose(still, total)
    with pytest.raises(ValueError, match=r"joint stream learns from motion.*image_every=0"):
        fusionseg.loss({"joint": logits}, {"mask": masks[:, 0]})


def test_an_unknown_stream_names_those_there_are():
    with pytest.raises(ValueError, match="appearance, motion, joint, not 'flow'"):
        shapes(fusionseg.SYSTEM, fusionseg.FusionSeg(**TINY, stream="flow"))


# --- protocol ----------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("model", "stream"))
def look(model, variables, pictures, stream):
    """A stream's logits of prepared pictures."""
    return model.apply(variables, pictures, method=lambda m, x: getattr(m, stream)(x))


def released(model, variables, frame, field, canvas):
    """The released driver: the answer [h, w], which may be shorter than the frame."""
    logits = []
    height, width = frame.shape[:2]
    for name, shown in (("appearance", frame), ("motion", picture(field, eps=fusionseg.EPS))):
        whole = np.zeros((max(canvas[0], height), max(canvas[1], width), 3))
        whole[:height, :width] = shown / 255
        whole = 255 * whole[..., ::-1] - [104.00698793, 116.66876762, 122.67891434]
        found = look(model, variables, jnp.asarray(whole, jnp.float32)[None], name)
        logits.append(found[:, :height, :width])
    two = np.asarray(model.apply(variables, *logits, method="fuse"), np.float64)[0]
    return np.exp(two[..., 1]) / np.exp(two).sum(axis=-1)


@pytest.mark.parametrize(("frame", "answered"), [(FRAME, (25, 41)), ((20, 30), (20, 30))])
def test_protocol_is_the_released_driver_on_a_canvas_and_goes_on_to_the_edge(tiny, frame, answered):
    model, variables = tiny
    clip = video(3, frame)
    segment = fusionseg.segmenter(model, variables, canvas=CANVAS, batch=2)
    short = fusionseg.segmenter(model, variables, canvas=CANVAS, batch=2, short=True)
    maps = zip(segment(clip), short(clip), strict=True)
    for t, (ours, cut) in enumerate(maps):
        field = clip.flow[t] if t < 2 else -clip.flow[1]
        expected = released(model, variables, clip.frames[t], field, CANVAS)
        assert expected.shape == answered
        assert ours.shape == cut.shape == frame and ours.dtype == np.float32
        missing = [(0, a - b) for a, b in zip(frame, answered, strict=True)]
        np.testing.assert_allclose(ours, np.pad(expected, missing, mode="edge"), atol=1e-5)
        np.testing.assert_allclose(cut, np.pad(expected, missing), atol=1e-5)
    assert np.ptp(ours) > 1e-2


def test_the_last_frames_flow_leads_back_where_it_can_be_estimated(tiny, monkeypatch):
    clip = video(3)
    asked = []

    def estimate(frames, t, u):
        asked.append((t, u))
        return np.full((*FRAME, 2), t - u, np.float32)

    monkeypatch.setattr("jaxvos.flow.fields.ESTIMATORS", {"dis": estimate})
    estimated = with_flow(clip, "dis")
    assert (fusionseg.last_flow(estimated, True) == 1).all() and asked == [(2, 1)]
    assert (fusionseg.last_flow(estimated, False) == 1).all() and asked[1:] == [(1, 2)]
    np.testing.assert_array_equal(fusionseg.last_flow(clip, True), -clip.flow[1])


def test_a_folder_of_flow_says_at_once_what_to_do_about_the_last_frame(tiny, tmp_path):
    clip = video(3)
    for t, field in enumerate(clip.flow):
        np.save(tmp_path / f"{t:05d}.npy", field)
    filed = with_flow(clip, tmp_path)
    with pytest.raises(ValueError, match=r"from frame 2 to 1 .* Or give back=False"):
        next(fusionseg.segmenter(*tiny, canvas=CANVAS)(filed))
    ours = list(fusionseg.segmenter(*tiny, canvas=CANVAS, back=False)(filed))
    given = list(fusionseg.segmenter(*tiny, canvas=CANVAS)(clip))
    np.testing.assert_array_equal(ours, given)


def test_any_length_compiles_once(tiny):
    segment = fusionseg.segmenter(*tiny, canvas=CANVAS, batch=2)
    list(segment(video(2)))
    compiled = fusionseg._score._cache_size()
    assert len(list(segment(video(5)))) == 5
    assert fusionseg._score._cache_size() == compiled


def test_the_appearance_needs_no_flow_and_the_others_say_how_to_get_it(tiny):
    model, variables = tiny
    clip = video(3)._replace(flow=None)
    alone = fusionseg.segmenter(model.copy(stream="appearance"), variables, canvas=CANVAS)
    assert len(list(alone(clip))) == 3
    with pytest.raises(ValueError, match=r"FusionSeg.*--flow dis.*stream=appearance"):
        next(fusionseg.segmenter(model, variables, canvas=CANVAS)(clip))


def test_a_single_frame_and_a_scene_that_stands_still_have_scores(tiny):
    segment = fusionseg.segmenter(*tiny, canvas=CANVAS, batch=2)
    (alone,) = segment(video(1))
    still = Video(video(2).frames, [np.zeros((*FRAME, 2), np.float32)])
    first, _ = segment(still)
    np.testing.assert_allclose(alone, first, atol=1e-6)
    assert np.isfinite(first).all()


# --- weights and recipe ------------------------------------------------------------------------


def caffe_layers(variables, stream: str, last: str, factor: float) -> list[bytes]:
    """A stream's layers as Caffe writes them, statistics times a factor that is written, too."""
    layers = []
    head = "fc1_binary_seg" + "_flow" * bool(last)
    modules = {p.rpartition("/")[0] for p in flatten_dict(variables["params"], sep="/")}
    for module in sorted(m for m in modules if m.startswith(f"{stream}/")):
        leaves, statistics = variables["params"], variables["batch_stats"]
        for key in module.split("/"):
            leaves, statistics = leaves[key], statistics.get(key, {})
        _, *path = module.split("/")
        if path[0].startswith("fc1"):
            name = f"{head}{path[0][3:]}"
        elif len(path) == 2:
            name = {"conv1": "conv1", "bn1": "_conv1"}[path[1]]
        else:
            branch = {"1": "2a", "2": "2b", "3": "2c"}.get(path[3][-1], "1")
            name = f"{int(path[1][5:]) + 1}a_branch{branch}"
            name = name if "bn" in path[3] else f"res{name}"
        if "kernel" in leaves:
            blobs = [np.transpose(leaves["kernel"], (3, 2, 0, 1)), leaves.get("bias")]
            blobs = [blob(b) for b in blobs if b is not None]
            layers.append(layer(name + last, "Convolution", *blobs))
        else:
            sums = [statistics["mean"] * factor, statistics["var"] * factor, np.full(1, factor)]
            layers.append(layer(f"bn{name}{last}", "BatchNorm", *map(blob, sums)))
            scale = blob(leaves["scale"]), blob(leaves["bias"])
            layers.append(layer(f"scale{name}{last}", "Scale", *scale))
    return layers


def test_the_three_published_files_become_one_and_a_stream_can_stand_alone(tmp_path):
    model = fusionseg.FusionSeg(**TINY)
    made = shapes(fusionseg.SYSTEM, model)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), made)
    joint = [
        layer(
            name, "Convolution", blob(leaves["kernel"].transpose(3, 2, 0, 1)), blob(leaves["bias"])
        )
        for name, leaves in variables["params"]["joint"].items()
    ]
    parts = {
        "appearance": caffe_layers(variables, "appearance", "", 0.5),
        "motion": caffe_layers(variables, "motion", "_motion", 999.98),
        "joint": joint,
    }
    files = [tmp_path / f"{name}.caffemodel" for name in parts]
    for file, layers in zip(files, parts.values(), strict=True):
        file.write_bytes(net(*layers))
    found = to_variables(fusionseg.published(*files), fusionseg.NAMES, made)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, dict(variables))
    for file, stream in zip(files, ("appearance", "motion"), strict=False):
        own = shapes(fusionseg.SYSTEM, model.copy(stream=stream, alone=True))
        assert own["params"].keys() == {stream}
        alone = to_variables(fusionseg.torch_import.read(file), fusionseg.NAMES, own)
        jax.tree.map(
            np.testing.assert_array_equal, alone["params"][stream], found["params"][stream]
        )


def test_each_stage_goes_on_with_the_weights_of_the_one_before():
    trees = []
    for mode in ("appearance", "motion", "joint"):
        recipe = read_recipe(f"fusionseg:{mode}", ["model.depths=(1,1,1,1)"])
        assert recipe.model.stream == mode
        model = fusionseg.FusionSeg(**model_options(recipe))
        trees.append(jax.tree.map(lambda leaf: leaf.shape, shapes(fusionseg.SYSTEM, model)))
        own = [pattern for pattern, (factor,) in recipe.optimizer.groups if factor > 0]
        assert all(pattern.startswith(mode) for pattern in own)
    assert trees[0] == trees[1] == trees[2]


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(fusionseg.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    clip = video(2)
    a, b = (next(fusionseg.segmenter(m, variables, canvas=CANVAS)(clip)) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.05
