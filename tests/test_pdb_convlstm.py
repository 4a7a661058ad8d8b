"""PDB-ConvLSTM's protocol, variants, loss and weights; tests/parity pins its arithmetic."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxvos import systems, torch_import
from jaxvos.clip_protocol import clip_order, clip_segmenter, squash, stretched
from jaxvos.inference import to_size
from jaxvos.layers import psp_resnet
from jaxvos.layers.peepholes import fit_peepholes
from jaxvos.layers.psp_resnet import PSPResNet, map_size
from jaxvos.programs.convert import convert
from jaxvos.recipe import flat, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import pdb_convlstm as pdb
from jaxvos.typing import Video
from tests.caffe_files import blob, layer, net

SIZE = (33, 49)
TINY = {"depths": (1, 1, 1, 1), "width": 4, "branch": 4, "features": 4, "size": SIZE}
MANIFEST = Path(__file__).parent / "parity" / "pdb_convlstm" / "manifest.json"


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def lively(variables, seed=0):
    """The same tree with larger random numbers, so that every part of the network matters."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda a: a + 0.2 * draw(a), variables["params"])
    params["resnet"]["stem_conv1"]["kernel"] *= 0.01  # pictures are in 0..255
    return {**variables, "params": params}


@pytest.fixture(scope="module")
def tiny():
    model = pdb.PDBConvLSTM(**TINY)
    return model, lively(initialise(pdb.SYSTEM, model, 0))


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, clips, train=False):
    """Outputs and changed statistics for clips [B, T, H, W, 3] uint8."""
    prepared = pdb.prepare(clips)
    return model.apply(variables, prepared, train=train, mutable=["batch_stats"])


def clip(count: int) -> np.ndarray:
    return np.stack([squash(f, SIZE) for f in frames(count)])[None]


# Clips.


@pytest.mark.parametrize(
    ("count", "length", "last"),
    [
        (84, 5, [80, 81, 82, 83, 82]),
        (43, 5, [40, 41, 42, 41, 40]),
        (85, 5, [80, 81, 82, 83, 84]),
        (80, 3, [78, 79, 78]),
        (40, 3, [39, 38, 37]),
        (3, 5, [0, 1, 2, 1, 0]),
        (2, 5, [0, 1, 0, 1, 0]),
        (1, 5, [0, 0, 0, 0, 0]),
    ],
)
def test_the_last_clip_is_filled_by_walking_back_from_the_end(count, length, last):
    order = clip_order(count, length)
    assert order[-1].tolist() == last
    assert order.ravel()[:count].tolist() == list(range(count))
    assert order.shape == (-(-count // length), length)


def counted(calls: list):
    """A network whose answer says in which call and at which place of the clip a frame was."""

    def saliency(clips):
        calls.append(clips.shape)
        place = 100 * len(calls) + np.arange(clips.shape[1])
        return np.broadcast_to(place[None, :, None, None], clips.shape[:-1]).astype(np.float32)

    return saliency


def answers(count: int, batch: int = 1) -> list[int]:
    calls = []
    segment = clip_segmenter(counted(calls), length=5, size=SIZE, batch=batch, stretch=False)
    found = [int(scores[0, 0]) for scores in segment(Video(frames(count)))]
    assert set(calls) == {(batch, 5, *SIZE, 3)}
    return found


def test_a_frame_that_is_seen_twice_keeps_its_later_answer():
    assert answers(7) == [100, 101, 102, 204, 203, 202, 201]  # 0 1 2 3 4, 5 6 5 4 3
    assert answers(2) == [104, 103]
    assert answers(1) == [104]
    assert answers(5) == [100, 101, 102, 103, 104]


def test_frames_are_read_clip_by_clip_and_handed_out_as_soon_as_they_are_final():
    read = []

    class Noted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    video = Video(Noted(frames(12)))
    segment = clip_segmenter(counted([]), length=5, size=SIZE, batch=1, stretch=False)(video)
    next(segment)
    assert max(read) == 4
    assert len(list(segment)) == 11


def test_maps_are_stretched_and_constant_ones_left_alone():
    np.testing.assert_allclose(stretched(np.float32([[0.2, 0.3, 0.4]])), [[0, 0.5, 1]], atol=1e-6)
    np.testing.assert_array_equal(stretched(np.full((2, 2), 0.3)), np.full((2, 2), 0.3))


def test_pictures_are_squashed_without_smoothing():
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 255
    assert squash(stripes, (40, 20)).std() > 50  # a filter as wide as the step would leave grey
    assert squash(stripes, (40, 60)) is stripes


# The network.


def test_the_map_size_is_what_the_resnet_gives():
    for size in ((33, 49), (34, 50), (35, 51), (36, 52), (37, 53), (40, 41)):
        resnet = PSPResNet((1, 1, 1, 1), 4)
        made = jax.eval_shape(
            lambda x, net=resnet: net.init_with_output(jax.random.key(0), x, False)[0],
            jnp.zeros((1, *size, 3)),
        )
        assert made.shape[1:3] == map_size(size)
    assert map_size((473, 473)) == (60, 60)


def test_prepared_pictures_are_bgr_minus_the_mean():
    red = jnp.asarray([[[[[255, 0, 0]]]]], jnp.uint8)
    expected = [-104.00698793, -116.66876762, 255 - 122.67891434]
    np.testing.assert_allclose(pdb.prepare(red)[0, 0, 0, 0], expected, atol=1e-4)


def test_every_frame_of_a_clip_hears_of_every_other_one(tiny):
    model, variables = tiny
    plain = run(model, variables, clip(3))[0]["saliency"]
    for changed in range(3):
        other = clip(3)
        other[:, changed] = 255 - other[:, changed]
        moved = np.abs(run(model, variables, other)[0]["saliency"] - plain).max(axis=(0, 2, 3, 4))
        assert (moved > 1e-5).all(), moved


def test_the_backward_pass_hears_of_the_frames_by_the_forward_one_alone(tiny):
    model, variables = tiny
    params = {**variables["params"]}
    for d in (1, 2):  # a forward pass that remembers nothing
        cell = params[f"forward{d}"]
        params[f"forward{d}"] = jax.tree.map(jnp.zeros_like, cell)
    silent = {**variables, "params": params}
    a, b = clip(2), 255 - clip(2)
    one, two = (run(model, silent, x)[0]["saliency"] for x in (a, b))
    np.testing.assert_array_equal(one, two)
    assert (np.asarray(run(model, variables, a)[0]["saliency"]) != one).any()


def test_without_the_conv_lstms_frames_are_on_their_own_and_the_variables_the_same(tiny):
    model, variables = tiny
    still = model.copy(recurrent=False)
    assert jax.tree.map(jnp.shape, shapes(pdb.SYSTEM, still)) == jax.tree.map(
        jnp.shape, dict(variables)
    )
    whole = run(still, variables, clip(3))[0]["saliency"]
    alone = run(still, variables, clip(3)[:, 1:2])[0]["saliency"]
    np.testing.assert_allclose(whole[:, 1:2], alone, rtol=1e-4, atol=1e-4)


def test_frozen_batch_norm_is_the_same_in_training_and_a_free_one_learns(tiny):
    model, variables = tiny
    outputs, changed = run(model, variables, clip(2), train=True)
    np.testing.assert_array_equal(
        outputs["saliency"], run(model, variables, clip(2))[0]["saliency"]
    )
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    _, changed = run(model.copy(frozen=False), variables, clip(2), train=True)
    moved = jax.tree.map(
        lambda a, b: (a != b).any(), changed, {"batch_stats": variables["batch_stats"]}
    )
    assert all(jax.tree.leaves(moved))


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = shapes(pdb.SYSTEM, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    a, b = (jax.nn.sigmoid(run(m, variables, clip(2))[0]["saliency"]) for m in (model, half))
    assert b.dtype == jnp.float32 and 0 < np.abs(a - b).max() < 0.05


# Peepholes.


def test_pictures_of_another_size_than_the_peepholes_are_refused_by_the_network(tiny):
    model, variables = tiny
    with pytest.raises(ValueError, match=r"peephole_f is for maps of 5 x 7, .* give 7 x 7"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 2, 49, 49, 3)))


def test_the_segmenter_resizes_the_peepholes_with_a_warning(tiny):
    model, variables = tiny
    with pytest.warns(UserWarning, match="on maps of 5 x 7 are resized to 7 x 7"):
        segment = pdb.segmenter(model, variables, size=(49, 49), stretch=False)
    scores = next(segment(Video(frames(2))))
    with pytest.warns(UserWarning):
        other = fit_peepholes(variables, (7, 7))
    pictures = np.stack([squash(frames(2)[t], (49, 49)) for t in (0, 1, 0, 1, 0)])[None]
    expected = jax.nn.sigmoid(run(model, other, pictures)[0]["saliency"])[0, 4, ..., 0]
    np.testing.assert_allclose(scores, to_size(expected, (40, 60)), atol=1e-5)


# Protocol and loss.


def test_the_protocol_is_the_network_on_clips_whatever_the_length_compiled_once(tiny):
    model, variables = tiny
    segment = pdb.segmenter(model, variables, stretch=False)
    scores = list(segment(Video(frames(7))))
    compiled = pdb._saliency._cache_size()
    small = [squash(f, SIZE) for f in frames(7)]
    first, last = (np.stack([small[t] for t in c])[None] for c in clip_order(7, 5).tolist())
    maps = [
        np.asarray(jax.nn.sigmoid(run(model, variables, c)[0]["saliency"]))[0, ..., 0]
        for c in (first, last)
    ]
    expected = [*maps[0][:3], *maps[1][[4, 3, 2, 1]]]  # 0 1 2 3 4, 5 6 5 4 3
    for ours, theirs in zip(scores, expected, strict=True):
        assert ours.shape == (40, 60) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, to_size(theirs, (40, 60)), atol=1e-5)
    assert len(list(segment(Video(frames(1))))) == 1
    assert pdb._saliency._cache_size() == compiled


def test_loss_is_cross_entropy_and_absolute_error_of_every_frame():
    masks = jnp.zeros((1, 2, 2, 2, 1)).at[0, 1].set(1.0)
    logits = jnp.zeros(masks.shape).at[0, 1].set(np.log(3.0))  # 0.5 and 0.75
    total, metrics = pdb.loss({"saliency": logits}, {"masks": masks})
    expected = (np.log(2) - np.log(0.75)) / 2 + (0.5 + 0.25) / 2
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert list(metrics) == ["video_loss"]
    total, metrics = pdb.loss({"saliency": logits}, {"mask": jnp.ones((1, 2, 2, 1))})
    expected = (np.log(2) - np.log(0.75)) / 2 + (0.5 + 0.25) / 2
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert list(metrics) == ["image_loss"]


def test_a_mask_of_a_still_image_stands_for_every_copy():
    mask = jnp.asarray([[[[1.0], [0.0]]]])
    right = jnp.where(jnp.broadcast_to(mask[:, None], (1, 3, 1, 2, 1)) > 0, 20.0, -20.0)
    assert pdb.loss({"saliency": right}, {"mask": mask})[0] < 1e-6
    assert pdb.loss({"saliency": right[:, :, :, ::-1]}, {"mask": mask})[0] > 1


# Published weights.


def published(model) -> dict[str, np.ndarray]:
    """Weights of a network of one block a stage, under the published names and layouts."""
    target = {
        path: leaf.shape for path, leaf in flatten_dict(shapes(pdb.SYSTEM, model), sep="/").items()
    }
    rng, tensors = np.random.default_rng(3), {}
    for entry in json.loads(MANIFEST.read_text())["params"]:
        name = entry["name"]
        if re.match(r"conv[2-5]_[2-9]_(1x1|3x3)", name):
            continue  # the further blocks
        ours = target[torch_import._place(name, pdb.NAMES, target)]
        size = (ours[3], ours[2], *ours[:2]) if len(ours) == 4 else ours
        tensors[name] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    return tensors


def caffemodel(tensors: dict[str, np.ndarray]) -> bytes:
    """The file that would hold them: BN as (1, C, 1, 1), ConvLSTMs with their single numbers."""
    layers: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(tensor)
    parts = []
    for name, blobs in layers.items():
        if name.startswith("encode"):
            x, *others = blobs
            blobs, kind = (
                [x, np.zeros(1), np.zeros(1), *others, np.zeros(1), np.zeros(1)],
                "ConvLSTM",
            )
        elif "/bn" in name:
            blobs, kind = [each.reshape(1, -1, 1, 1) for each in blobs], "BN"
        else:
            kind = "Convolution"
        parts.append(layer(name, kind, *map(blob, blobs)))
    return net(*parts)


def test_a_published_caffemodel_becomes_weights_that_segment(tmp_path, monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "pdb_convlstm", pdb.SYSTEM)
    model = pdb.PDBConvLSTM(**TINY)
    tensors = published(model)
    source, target = tmp_path / "pdb.caffemodel", tmp_path / "pdb.safetensors"
    source.write_bytes(caffemodel(tensors))
    convert("pdb_convlstm", source, target, options=TINY)
    loaded = systems.load("pdb_convlstm", target)
    expected = torch_import.to_variables(tensors, pdb.NAMES, shapes(pdb.SYSTEM, model))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)
    cell = loaded.variables["params"]["backward1"]
    np.testing.assert_array_equal(cell["peephole_o"], tensors["encode3.peep_o"])
    assert len(list(loaded.segmenter()(Video(frames(2))))) == 2


def test_peepholes_of_the_published_size_are_brought_to_the_models(tmp_path, monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "pdb_convlstm", pdb.SYSTEM)
    tensors = published(pdb.PDBConvLSTM(**TINY))
    source, target = tmp_path / "pdb.caffemodel", tmp_path / "pdb.safetensors"
    source.write_bytes(caffemodel(tensors))
    with pytest.warns(UserWarning, match="on maps of 5 x 7 are resized to 7 x 7"):
        convert("pdb_convlstm", source, target, options=TINY | {"size": [49, 49]})
    found = systems.load("pdb_convlstm", target).variables["params"]["forward2"]["peephole_i"]
    np.testing.assert_allclose(found[::6, ::6], tensors["encode2.peep_i"][::4, ::6], rtol=1e-6)


def test_a_pspnet_fills_the_resnet_and_leaves_the_rest(tiny, tmp_path):
    model, variables = tiny
    whole = published(model)
    tensors = {k: v for k, v in whole.items() if re.match(r"conv[1-5]_\d_(3x3|1x1)", k)}
    extra = {f"{name}.weight": np.ones((2, 2, 1, 1)) for name in ("conv5_3_pool1_conv", "conv6")}
    extra |= {"conv5_4/bn.slope": np.ones(2), "conv5_4.weight": np.ones((2, 2, 3, 3))}
    (tmp_path / "psp.caffemodel").write_bytes(caffemodel(tensors | extra))
    found, filled = torch_import.fill(
        variables,
        torch_import.read(tmp_path / "psp.caffemodel"),
        psp_resnet.NAMES,
        under=pdb.SYSTEM.backbone,
        ignore=psp_resnet.HEADS,
    )
    assert len(filled) == len(tensors)
    expected = flatten_dict(torch_import.to_variables(whole, pdb.NAMES, variables), sep="/")
    for path, leaf in flatten_dict(found, sep="/").items():
        inside = path.split("/")[1] == "resnet"
        theirs = expected[path] if inside else flatten_dict(variables, sep="/")[path]
        np.testing.assert_array_equal(leaf, theirs, err_msg=path)


# The recipe.


def factors(mode: str) -> dict[str, float]:
    """What each parameter's rate is multiplied by in a step of training."""
    groups = read_recipe(f"pdb_convlstm{mode}").optimizer.groups
    paths = flatten_dict(shapes(pdb.SYSTEM, pdb.PDBConvLSTM(**TINY))["params"], sep="/")
    return {
        path: next(each[0] for pattern, each in groups if re.fullmatch(pattern, path))
        for path in paths
    }


def test_each_step_of_training_moves_what_it_should():
    steps = {mode: factors(mode) for mode in (":static", ":joint", "")}
    parts = {
        "resnet/stage2/block0/conv1/kernel": (1, 1, 0),
        "resnet/stem_conv3/kernel": (1, 1, 0),
        "resnet/stage2/block0/project_bn/scale": (0, 0, 0),
        "resnet/stem_bn1/bias": (0, 0, 0),
        "pdc/d8/conv/kernel": (1, 1, 0),
        "pdc/fuse/bn/scale": (0, 0, 0),
        "forward2/peephole_o": (0, 100, 100),
        "backward1/h_conv/kernel": (0, 100, 100),
        "conv7/kernel": (1, 100, 100),
        "conv7/bias": (2, 200, 200),
    }
    for path, expected in parts.items():
        assert tuple(step[path] for step in steps.values()) == expected, path


def test_all_steps_of_training_have_the_same_keys_and_variables():
    recipes = [read_recipe(f"pdb_convlstm{mode}") for mode in ("", ":static", ":joint")]
    assert len({tuple(flat(recipe)) for recipe in recipes}) == 1
    assert [recipe.model.recurrent for recipe in recipes] == [True, False, True]
    assert [recipe.data.copies for recipe in recipes] == [5, 1, 5]
