"""MATNet's labels, loss and protocol; its arithmetic is pinned by tests/parity."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxvos.flow.colour import picture
from jaxvos.inference import fit, to_size
from jaxvos.layers.boundaries import boundary, contrast, dilated
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.layers.resnet import ResNet
from jaxvos.layers.staged_resnet import StagedResNet
from jaxvos.system import shapes
from jaxvos.systems import matnet
from jaxvos.typing import Video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "cascades": 2, "boundary": 4, "features": 8}
SIZE = (33, 49)
UNUSED = r"bottleneck|/bn[ab]/|convFS1|pdc/block[23]|pred[345]"
RNG = np.random.default_rng


def video(count: int, size: tuple[int, int] = (40, 60)) -> Video:
    """Random pictures, each with another smooth flow."""
    frames = [RNG(t).integers(0, 256, (*size, 3), np.uint8) for t in range(count)]
    y, x = np.mgrid[: size[0], : size[1]] / 10
    flow = [np.float32(np.stack([x - t, np.cos(y + t)], -1)) for t in range(count - 1)]
    return Video(frames, flow)


@pytest.fixture(scope="module")
def tiny():
    """A tiny network whose parts all do something, which at first the decoder hardly does."""
    model = matnet.MATNet(**TINY)
    draw = RNG(0).normal

    def leaf(path: tuple, like: jax.ShapeDtypeStruct) -> jax.Array:
        noise, kind = draw(size=like.shape), path[-1].key
        if kind == "kernel":
            gain = 0.3 if path[1].key == "decoder" else 1.4  # lest probabilities be 0 and 1
            return jnp.float32(gain * noise / np.sqrt(np.prod(like.shape[:-1])))
        return jnp.float32(0.1 * noise + (kind in ("scale", "var")))

    return model, jax.tree_util.tree_map_with_path(leaf, shapes(matnet.SYSTEM, model))


@partial(jax.jit, static_argnames="model")
def score(model, variables, frame, flow_picture):
    """Probabilities [H, W] of a frame and its flow's picture, both [H, W, 3] in 0..255."""
    pictures = (matnet.prepare(x)[None, None] for x in (frame, flow_picture))
    return jax.nn.sigmoid(model.apply(variables, *pictures)["mask"][0, 0, ..., 0])


@pytest.mark.parametrize("longest", [None, 2.5])
def test_the_wheel_on_the_device_is_the_hosts_within_a_level_each_picture_by_itself(longest):
    flow = np.float32(RNG(0).normal(size=(3, 20, 30, 2)) * [[[[1.0]]], [[[9.0]]], [[[0.01]]]])
    drawn = np.asarray(wheel_picture(jnp.asarray(flow), longest=longest))
    for ours, one in zip(drawn, flow, strict=True):
        expected = picture(one, longest=longest).astype(float)
        off = np.abs(ours - expected)
        assert off.max() <= 1 and (off > 0).mean() < 0.01
    assert np.abs(drawn[0] - drawn[1]).max() > 50


def test_where_nothing_moves_the_wheel_is_white_and_along_the_axes_it_is_exact():
    still = wheel_picture(jnp.zeros((2, 4, 5, 2)))
    np.testing.assert_array_equal(still, np.full((2, 4, 5, 3), 255))
    axes = np.float32([[[3, 0], [0, 3], [-3, 0], [0, -3], [-3, -1e-9], [-3, 1e-9]]])
    off = wheel_picture(jnp.asarray(axes)) - picture(axes).astype(np.float32)
    assert np.abs(off).max() <= 1


def test_a_boundary_is_within_two_pixels_of_another_label_by_a_disc():
    masks = jnp.zeros((1, 9, 11, 1)).at[0, 4, 5].set(1.0)
    found = np.asarray(boundary(masks, 2)[0, ..., 0])
    y, x = np.mgrid[:9, :11]
    np.testing.assert_array_equal(found, (y - 4) ** 2 + (x - 5) ** 2 <= 4)


def test_boundaries_are_on_both_sides_between_objects_and_not_at_the_pictures_edge():
    labels = jnp.zeros((6, 12, 1)).at[:, 4:8].set(1.0).at[:, 8:].set(2.0)
    columns = np.asarray(boundary(labels, 2)[..., 0])
    np.testing.assert_array_equal(columns, np.broadcast_to([0, 0] + [1] * 8 + [0, 0], (6, 12)))
    assert not boundary(jnp.ones((3, 6, 8, 1)), 2).any()


def test_contrast_is_largest_where_grey_is_steepest_and_nothing_in_a_plain_picture():
    step = jnp.zeros((2, 10, 20, 3)).at[0, :, 8:].set(90.0).at[1, 5:].set(10.0)
    found = contrast(step)[..., 0]
    np.testing.assert_allclose(found[0, :, 7:9], 1, rtol=1e-5)
    np.testing.assert_allclose(found[1, 4:6], 1, rtol=1e-5)
    assert not found[0, :, :4].any() and not found[0, :, 12:].any()
    assert not contrast(jnp.full((1, 8, 8, 3), 77, jnp.uint8)).any()


def test_hard_edges_are_steep_places_away_from_the_object():
    frames = np.zeros((40, 60, 3), np.uint8)
    frames[:, 10:] = 100  # an edge of the ground
    frames[12:28, 35:50] = 250  # the object, whose own edges are steeper
    masks = jnp.zeros((40, 60, 1)).at[12:28, 35:50].set(1.0)
    hard = np.asarray(matnet.hard_edges(jnp.asarray(frames), masks)[..., 0])
    np.testing.assert_allclose(hard[:, 8:12], 1, atol=1e-5)
    near = np.asarray(dilated(masks, 7)[..., 0]) > 0
    assert not hard[near].any() and not hard[:, 20:28].any()
    assert not matnet.hard_edges(jnp.asarray(frames), jnp.ones_like(masks)).any()


def test_the_loss_weighs_hard_pixels_more_and_is_the_mean_over_pixels():
    outputs = {"mask": jnp.zeros((1, 1, 2, 2, 1)), "edges": jnp.full((1, 1, 2, 2, 5), 300.0)}
    mask, edge = jnp.zeros((1, 1, 2, 2, 1)), jnp.zeros((1, 1, 2, 2, 1)).at[..., 0, :].set(1)
    hard = jnp.zeros((1, 1, 2, 2, 1)).at[:, :, 0, 0].set(0.5)
    parts = matnet.weighted_losses(outputs, mask, edge, hard)
    # Of the edges the lower two pixels are wrong by far; PyTorch stops at 100.
    expected = [np.log(2) * 4.5 / 4] + [200 / 4] * 5
    np.testing.assert_allclose(parts, expected, rtol=1e-6)
    np.testing.assert_allclose(matnet.total_loss(parts), parts[0] + 50.0, rtol=1e-6)


def test_of_a_clip_all_frames_but_the_last_count_and_a_still_is_all_of_its_own():
    outputs = {"mask": jnp.zeros((1, 1, 12, 14, 1)), "edges": jnp.zeros((1, 1, 12, 14, 5))}
    outputs["mask"] = (outputs["mask"] - 2).at[..., :5, :, :].set(4.0)
    frames = jnp.asarray(RNG(0).integers(0, 256, (1, 2, 12, 14, 3), np.uint8))
    masks = jnp.zeros((1, 2, 12, 14, 1)).at[:, :, :5].set(1.0)
    total, metrics = matnet.loss(outputs, {"frames": frames, "masks": masks})
    other = {"frames": frames.at[:, 1].set(0), "masks": masks.at[:, 1].set(1)}
    np.testing.assert_array_equal(matnet.loss(outputs, other)[0], total)
    assert metrics.keys() == {"video_loss", "mask_loss", "fused_edge_loss"}
    still, metrics = matnet.loss(outputs, {"frames": frames[:, :1], "mask": masks[:, 0]})
    np.testing.assert_allclose(still, total, rtol=1e-6)
    assert "image_loss" in metrics
    upside = {"frames": frames, "masks": masks[:, :, ::-1]}
    assert matnet.loss(outputs, upside)[0] > total + 0.5


def test_the_flow_stream_gets_nothing_of_the_frame_and_the_frame_all_from_attention():
    layer = matnet.Transition(channels=16, cascades=3, dtype=None)
    a, b, c = (jax.nn.relu(jax.random.normal(jax.random.key(i), (1, 4, 5, 16))) for i in range(3))
    variables = layer.init(jax.random.key(9), a, b)
    apply = jax.jit(layer.apply)
    found, own = apply(variables, a, b)
    np.testing.assert_array_equal(apply(variables, c, b)[1], own)
    assert np.abs(apply(variables, a, c)[0] - found).max() > 1e-4
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    once = matnet.Transition(channels=16, cascades=1, dtype=None)
    assert np.abs(once.apply(variables, a, b)[0] - found).max() > 1e-4  # with the same weights
    zero = jnp.zeros_like(a)
    grads = jax.jit(jax.grad(lambda a, b: layer.apply(variables, a, b)[0].sum(), (0, 1)))(zero, b)
    assert all(np.isfinite(g).all() for g in grads)


def test_the_staged_resnet_has_the_variables_and_the_answer_of_the_whole_one():
    options = {"depths": (1, 1, 1, 1), "width": 4, "strides": (1, 2, 2, 2)}
    whole = ResNet(**options, dilations=(1,) * 4, ceil_pool=False, stride_in_3x3=True)
    staged = StagedResNet(**options)

    def through(module, x, train):
        x = module.stem(x, train)
        for number in (1, 2, 3, 4):
            x = module.stage(number, x, train)
        return x

    x = jax.random.normal(jax.random.key(0), (1, 33, 52, 3))  # the pooled sides are odd and even
    variables = jax.jit(partial(whole.init, train=False))(jax.random.key(1), x)

    @jax.jit
    def both(variables, x):
        return whole.apply(variables, x, False), staged.apply(variables, x, False, method=through)

    np.testing.assert_allclose(*both(variables, x), rtol=1e-5)


def test_gradients_reach_all_that_is_used_and_a_scene_at_rest_breaks_nothing(tiny):
    model, variables = tiny
    frames = jnp.asarray(np.stack([fit(f, SIZE) for f in video(2).frames]))[None]
    masks = jnp.zeros((1, 2, *SIZE, 1)).at[:, :, 9:20, 12:30].set(1.0)

    @jax.jit
    def gradient(params, flow):
        def value(params):
            inputs = matnet.prepare(frames), matnet.prepare_flow(flow)
            outputs, _ = model.apply(
                {**variables, "params": params}, *inputs, train=True, mutable=["batch_stats"]
            )
            return matnet.loss(outputs, {"frames": frames, "masks": masks})[0]

        return jax.grad(value)(params)

    still = gradient(variables["params"], jnp.zeros((1, 2, *SIZE, 2)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(still))
    flow = jax.random.normal(jax.random.key(0), (1, 2, *SIZE, 2))
    moving = flatten_dict(gradient(variables["params"], flow), sep="/")
    idle = {path for path, leaf in moving.items() if not np.abs(leaf).any()}
    unused = {path for path in moving if re.search(UNUSED, path)}
    # A softmax does not see what is added to all of its logits.
    assert unused <= idle and all(re.search("proj[12]/bias", path) for path in idle - unused)


def test_protocol_is_the_mean_of_both_pictures_and_both_mirrored(tiny):
    model, variables = tiny
    clip = video(3)
    ours = list(matnet.segmenter(model, variables, size=SIZE, batch=2)(clip))
    plain = list(matnet.segmenter(model, variables, size=SIZE, flip=False)(clip))
    for t in range(3):
        inputs = fit(clip.frames[t], SIZE), fit(picture(clip.flow[min(t, 1)]), SIZE)
        here = score(model, variables, *inputs)
        there = score(model, variables, *(x[:, ::-1] for x in inputs))[:, ::-1]
        assert ours[t].shape == (40, 60) and ours[t].dtype == np.float32
        np.testing.assert_allclose(plain[t], to_size(here, (40, 60)), atol=1e-5)
        np.testing.assert_allclose(ours[t], to_size((here + there) / 2, (40, 60)), atol=1e-5)
    assert np.abs(np.stack(ours) - plain).max() > 1e-3


def test_flow_drawn_at_the_networks_size_is_squashed_and_mirrored_as_motion(tiny):
    model, variables = tiny
    clip = video(2)
    (ours, _) = matnet.segmenter(model, variables, size=SIZE, draw_at_size=True)(clip)
    frame, flow = fit(clip.frames[0], SIZE), matnet.fit_flow(clip.flow[0], SIZE)
    here = score(model, variables, frame, picture(flow))
    turned = picture(flow[:, ::-1] * np.float32([-1, 1]))
    there = score(model, variables, frame[:, ::-1], turned)[:, ::-1]
    np.testing.assert_allclose(ours, to_size((here + there) / 2, (40, 60)), atol=2e-3)
    before = fit(picture(clip.flow[0]), SIZE)
    assert np.abs(score(model, variables, frame, before) - here).max() > 4e-3


def test_any_length_compiles_once(tiny):
    segment = matnet.segmenter(*tiny, size=SIZE, batch=2)
    assert len(list(segment(video(2)))) == 2
    compiled = matnet._score._cache_size()
    assert len(list(segment(video(5, (50, 44))))) == 5
    assert matnet._score._cache_size() == compiled


@pytest.mark.parametrize("draw_at_size", [False, True])
def test_a_video_of_one_frame_has_a_white_picture_and_needs_no_flow(tiny, draw_at_size):
    model, variables = tiny
    options = {"size": SIZE, "flip": draw_at_size, "draw_at_size": draw_at_size}
    (frame,) = video(1).frames
    (scores,) = matnet.segmenter(model, variables, **options)(Video([frame]))
    white, small = np.full((*SIZE, 3), 255, np.uint8), fit(frame, SIZE)
    expected = score(model, variables, small, white)
    if draw_at_size:
        mirrored = score(model, variables, small[:, ::-1], white)[:, ::-1]
        expected = (expected + mirrored) / 2
    np.testing.assert_allclose(scores, to_size(expected, (40, 60)), atol=1e-5)


def test_a_video_without_flow_is_told_how_to_get_it(tiny):
    segment = matnet.segmenter(*tiny, size=SIZE)
    clip = video(3)
    with pytest.raises(ValueError, match=r"--flow dis.*--flow FOLDER.*`flow`"):
        next(segment(clip._replace(flow=None)))
    with pytest.raises(ValueError, match=r"3 frames and 1 fields of flow: .* 2\."):
        next(segment(clip._replace(flow=clip.flow[:1])))


def test_the_released_files_names_fit_with_and_without_the_file_they_are_of():
    """Each goes to a module of its own, all of ours are met, and leaves are as many."""
    manifest = Path(__file__).parent / "parity" / "matnet" / "manifest.json"
    names = [entry["name"] for entry in json.loads(manifest.read_text())["params"]]

    def place(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        matches = ((re.fullmatch(pattern, module), path) for pattern, path in matnet.NAMES)
        path = next(match.expand(path) for match, path in matches if match)
        return f"{path}/{leaf}"

    places = [place(name) for name in names]
    assert [place(name.split(".", 1)[1]) for name in names] == places
    full = flatten_dict(shapes(matnet.SYSTEM, matnet.MATNet()), sep="/")
    assert len(set(places)) == len(places) == len(full)
    modules = {path.split("/", 1)[1].rpartition("/")[0] for path in full}
    assert {path.rpartition("/")[0] for path in places} == modules


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(matnet.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    frame = fit(video(1).frames[0], SIZE)
    a, b = (score(m, variables, frame, frame[::-1]) for m in (model, half))
    assert 0 < np.abs(a - b).mean() < 0.02
