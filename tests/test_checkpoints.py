"""Our weight files come back as they were written, are whole, and say what they are."""

import errno
import json
import resource
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxvos import systems, torch_import
from jaxvos.checkpoints import read_weights, save_weights
from jaxvos.programs.convert import convert

FIXTURES = Path(__file__).parent / "fixtures"
METADATA = {
    "system": "cosnet",
    "options": '{"width": 16}',
    "version": "1.0",
    "license": "CC0",
    "source": "made up",
}
VARIABLES = {
    "params": {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}},
    "batch_stats": {"a": {"bn": {"mean": np.float32([0.1, -0.0])}}},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_weights_come_back_bit_by_bit_with_their_metadata(path):
    slope, more = jnp.float32(0.25), METADATA | {"segmenter": "{}"}
    strided = np.arange(12.0, dtype=np.float32).reshape(4, 3).T[:, ::2]
    variables = VARIABLES | {"params": {"p": {"negative_slope": slope, "kernel": strided}}}
    save_weights(path, variables, more)
    found, metadata = read_weights(path)
    assert metadata == more
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        assert ours.tobytes() == np.asarray(theirs).tobytes() and ours.shape == theirs.shape


def test_others_may_read_the_file_as_they_may_any_other(path):
    save_weights(path, VARIABLES, METADATA)
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path):
    save_weights(path, VARIABLES, METADATA)
    old = path.read_bytes()
    large = {"params": {"kernel": np.zeros(100_000, np.float32)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes a file may have
    try:
        with pytest.raises(OSError, match=r"0\.4 MB are needed.*weights\.safetensors") as caught:
            save_weights(path, large, METADATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    save_weights(path, VARIABLES, METADATA)
    old = path.read_bytes()

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, {"params": {"kernel": np.zeros(3, np.float32)}}, METADATA)
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]


def test_what_could_not_be_read_back_is_not_written(path):
    for metadata in (METADATA | {"license": None}, {"system": "cosnet"}):
        with pytest.raises(ValueError, match=r"lack the text of .*license"):
            save_weights(path, VARIABLES, metadata)
    with pytest.raises(ValueError):
        save_weights(path, VARIABLES, METADATA | {"options": "{not JSON"})
    with pytest.raises(ValueError, match="no variables"):
        save_weights(path, {"params": {}}, METADATA)
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        save_weights(path.with_suffix(".npz"), VARIABLES, METADATA)
    assert not list(path.parent.iterdir())


def test_a_file_cut_anywhere_is_refused_with_its_name(path):
    save_weights(path, VARIABLES, METADATA)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"not a whole \.safetensors file"):
            read_weights(path)


def test_files_that_are_not_ours_are_refused_with_the_way_to_convert_them(path):
    hint = f"jaxvos convert SYSTEM {path} OUT.safetensors"
    path.write_bytes((FIXTURES / "zip.pth").read_bytes())
    with pytest.raises(ValueError, match=r"begins with b'PK.*" + hint):
        read_weights(path)
    safetensors.numpy.save_file({"conv.weight": np.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"not written by jaxvos.*conv\.weight.*" + hint):
        read_weights(path)
    safetensors.numpy.save_file({"a/b": np.zeros(3), "a": np.zeros(2)}, path, METADATA)
    with pytest.raises(ValueError, match="'a' is both"):
        read_weights(path)
    with pytest.raises(ValueError, match="is a folder"):
        read_weights(path.parent)
    with pytest.raises(FileNotFoundError):
        read_weights(path.with_name("nowhere.safetensors"))


class Tiny(nn.Module):
    """The network of fixtures/*.pth: conv, bn, fc."""

    bias: bool = True

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (3, 3), use_bias=self.bias, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        return nn.Dense(5, use_bias=False, name="fc")(x)


@pytest.fixture
def tiny(monkeypatch):
    names = ((r"(conv|fc)", r"\1"), ("bn", "norm"))
    inputs = {"picture": lambda x: x}
    system = systems.SYSTEMS["cosnet"]._replace(model=Tiny, inputs=inputs, names=names)
    monkeypatch.setitem(systems.SYSTEMS, "tiny", system)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_published_file_becomes_one_of_ours(tiny, path, capsys, layout):
    source = FIXTURES / f"{layout}.pth"
    convert("tiny", source, path, license_note="CC0", options={"bias": True})
    told = capsys.readouterr().out
    assert "7 tensors, 80 parameters, 0.0 MB. Licence of the weights: CC0" in told
    found, metadata = read_weights(path)
    numbers = json.loads((FIXTURES / "expected.json").read_text())
    kernel = np.einsum("oihw->hwio", np.float32(numbers["module.conv.weight"]))
    np.testing.assert_array_equal(found["params"]["conv"]["kernel"], kernel)
    np.testing.assert_array_equal(
        found["batch_stats"]["norm"]["var"], np.float32(numbers["module.bn.running_var"])
    )
    assert metadata["license"] == "CC0" and metadata["system"] == "tiny"
    assert json.loads(metadata["options"]) == {"bias": True}
    assert metadata["source"].startswith(f"{layout}.pth, sha256 ")
    loaded = systems.load("tiny", path)
    assert loaded.model.apply(loaded.variables, np.ones((1, 9, 7, 3), np.float32)).shape == (1, 5)


def test_weights_of_another_network_are_refused_and_nothing_is_written(tiny, path):
    with pytest.raises(ValueError, match=r"zip\.pth, as weights of tiny: The checkpoint") as caught:
        convert("tiny", FIXTURES / "zip.pth", path, options={"bias": False})
    assert "+ conv.bias (2,): nothing of ours" in str(caught.value)
    assert not list(path.parent.iterdir())


def test_an_unknown_system_is_named_with_those_there_are(path):
    with pytest.raises(ValueError, match=r"'cosmet'. There are: .*cosnet"):
        convert("cosmet", FIXTURES / "zip.pth", path)


def test_a_file_is_only_replaced_when_asked_for(tiny, path):
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite"):
        convert("tiny", FIXTURES / "zip.pth", path)
    assert path.read_text() == "precious"
    convert("tiny", FIXTURES / "zip.pth", path, overwrite=True)
    assert read_weights(path)[1]["system"] == "tiny"


def test_weights_in_two_files_are_one_network(tiny, path, tmp_path):
    whole = torch_import.read(FIXTURES / "zip.pth")
    for name, chosen in (("a", True), ("b", False)):
        chosen_ones = [k for k in whole if k.startswith("conv") is chosen]
        part = {k: whole[k].astype(np.float32) for k in chosen_ones}
        np.savez(tmp_path / f"{name}.npz", **part)
    convert("tiny", tmp_path / "a.npz", path, more=[tmp_path / "b.npz"])
    convert("tiny", FIXTURES / "zip.pth", path.with_name("whole.safetensors"))
    found, expected = read_weights(path), read_weights(path.with_name("whole.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
    assert "a.npz, sha256 " in found[1]["source"] and "b.npz, sha256 " in found[1]["source"]
    with pytest.raises(ValueError, match=r"zip\.pth holds \d+ tensors that another file has, too"):
        convert("tiny", tmp_path / "a.npz", path, more=[FIXTURES / "zip.pth"], overwrite=True)
