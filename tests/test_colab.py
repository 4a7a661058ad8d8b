"""The notebook runs from a clean folder to its end, shows what it promises, and is stored clean."""

import base64
import importlib.util
import io
import os
import subprocess
import sys
import types
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from PIL import Image

from data_pipelines import sources
from jaxvos.recipe import read_recipe

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "colab" / "quickstart.ipynb"
TIMEOUT_S = 900  # a cell, with nothing compiled yet and on a busy machine


def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell(notebook, name):
    (found,) = (cell for cell in notebook.cells if cell.id == name)
    return found


def environment(folder):
    """This checkout, one CPU device, the tests' compilation cache; nothing of the user's."""
    drop = {"MPLBACKEND", "XLA_FLAGS"}  # the kernel chooses its own way to draw
    return {name: value for name, value in os.environ.items() if name not in drop} | {
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAXVOS_NOTEBOOK_STEPS": "2",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The executed notebook and the folder, empty before, that it ran in."""
    folder = tmp_path_factory.mktemp("colab")
    work = folder / "work"
    work.mkdir()
    # No folders of kernels: "python3" is then the interpreter that runs this test.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    notebook = stored()
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=TIMEOUT_S, resources={"metadata": {"path": str(work)}}
    )
    client.execute(env=environment(folder), cleanup_kc=True)  # ends the kernel, it is ours
    return notebook, work


def shown(run, name, kind):
    """What the cell shows of that MIME type, the last one."""
    found = [o.data[kind] for o in cell(run[0], name).outputs if kind in o.get("data", {})]
    assert found, f"The cell {name!r} shows no {kind}."
    return found[-1]


def printed(run, name):
    return "".join(o.text for o in cell(run[0], name).outputs if o.get("name") == "stdout")


@pytest.mark.slow
def test_every_cell_runs_in_an_empty_folder_without_a_warning(run):
    notebook, work = run
    for each in (each for each in notebook.cells if each.cell_type == "code"):
        assert each.execution_count is not None, each.id
        for output in each.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr" or "Warning" not in output.text, output.text
    assert cell(notebook, "install").outputs == []  # nothing was
    assert {p.name for p in work.iterdir()} == {"demo", "mine"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curve", "sheet", "maps", "own"])
def test_pictures_are_inline(run, name):
    picture = Image.open(io.BytesIO(base64.b64decode(shown(run, name, "image/png"))))
    assert np.asarray(picture.convert("L")).std() > 5  # not blank


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [("film", "demo"), ("own", "mine")])
def test_films_are_inside_the_notebook(run, name, file):
    page = shown(run, name, "text/html")
    assert "<video" in page
    film = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert film == (run[1] / file / "overlay.mp4").read_bytes()
    assert film[4:8] == b"ftyp"


@pytest.mark.slow
def test_the_device_and_the_scores_are_told(run):
    assert "CPU" in printed(run, "device") and "2 training steps" in printed(run, "device")
    lines = printed(run, "scores").splitlines()
    assert [line.split()[0] for line in lines] == [
        *(f"clip-{i}" for i in range(4)),
        "mean",
        "untrained",
    ]
    j = [float(line.split("J =")[1].split()[0]) for line in lines]
    assert j[4] == pytest.approx(np.mean(j[:4]), abs=1e-3)


@pytest.mark.slow
def test_what_section_6_says_of_a_folder_of_videos_is_true(run):
    config = read_recipe("cosnet_small", [f"data.videos={run[1] / 'demo' / 'clips'}"])
    assert len(sources.videos(config.data.videos, split="train")) == 4


def test_nothing_of_a_run_is_stored():
    notebook = stored()
    nbformat.validate(notebook)
    for each in (each for each in notebook.cells if each.cell_type == "code"):
        assert each.outputs == [] and each.execution_count is None and each.metadata == {}, each.id
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@pytest.fixture
def install(monkeypatch):
    """Runs the install cell where `absent` modules are missing; what pip was asked to install."""

    def run(*absent, repository="", devices=()):
        asked = []
        there = importlib.util.find_spec
        with monkeypatch.context() as patch:
            patch.setattr(
                "importlib.util.find_spec", lambda name: None if name in absent else there(name)
            )
            patch.setattr("glob.glob", lambda pattern: [d for d in devices if d[:8] == pattern[:8]])
            patch.setattr(subprocess, "run", lambda command, check: asked.append(command))
            source = cell(stored(), "install").source
            exec(source.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}", 1), {})
        assert all(command[:4] == [sys.executable, "-m", "pip", "install"] for command in asked)
        return [wish for command in asked for wish in command if wish.startswith("jaxvos")]

    return run


def test_where_jaxvos_is_importable_nothing_is_installed(install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert install() == []


def test_inside_a_checkout_that_is_installed(install, monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    assert install("jaxvos") == [f"jaxvos @ {ROOT.as_uri()}"]
    # Beside jaxvos/ its name can be imported, but what it needs is missing.
    assert install("grain") == [f"jaxvos @ {ROOT.as_uri()}"]


def test_away_from_a_checkout_the_user_is_asked_for_an_address(install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="set REPOSITORY"):
        install("jaxvos")
    address = "https://example.org/jaxvos.git"
    assert install("jaxvos", repository=address) == [f"jaxvos @ git+{address}"]


@pytest.mark.parametrize(
    ("device", "extra"), [("/dev/nvidia0", "cuda"), ("/dev/accel0", "tpu"), ("/dev/vfio/0", "tpu")]
)
def test_jax_is_installed_for_the_accelerator_that_is_there(install, monkeypatch, device, extra):
    monkeypatch.chdir(NOTEBOOK.parent)
    assert install("jaxvos", devices=[device]) == [f"jaxvos[{extra}] @ {ROOT.as_uri()}"]


@pytest.mark.parametrize(
    ("upload", "chosen"), [({"holiday.mp4": b""}, "holiday.mp4"), ({}, "clip-1"), (None, "clip-1")]
)
def test_colab_and_nobody_else_asks_for_a_file(monkeypatch, upload, chosen):
    if upload is not None:  # {} of a dialogue that was cancelled
        colab = types.ModuleType("google.colab")
        colab.files = types.SimpleNamespace(upload=lambda: upload)
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
        monkeypatch.setitem(sys.modules, "google.colab", colab)
    names = {"sys": sys}
    exec(cell(stored(), "choose").source, names)
    assert Path(names["VIDEO"]).name == chosen
