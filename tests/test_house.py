"""The house stays in order: imports run one way, the import is light, the wheel stands alone."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [str(p) for d in ("jaxvos", "data_pipelines") for p in sorted((ROOT / d).rglob("*.py"))]
FORBIDDEN = ("torch", "tensorflow", "clu")

# Layers of the house, lowest first; a file may import from its own layer and from lower ones.
LEVELS = (
    ("jaxvos.typing", "jaxvos.system", "jaxvos.davis_layout"),
    ("jaxvos.",),
    ("jaxvos.systems",),
    ("data_pipelines",),
    ("jaxvos.programs", "jaxvos.cli"),
)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def level(module: str) -> int:
    matches = [
        (len(prefix), number)
        for number, prefixes in enumerate(LEVELS)
        for prefix in prefixes
        if module == prefix.rstrip(".") or module.startswith(prefix.rstrip(".") + ".")
    ]
    return max(matches)[1]


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(Path(p).relative_to(ROOT)))
def test_imports_run_one_way(path):
    path = Path(path)
    module = module_of(path)
    if module == "jaxvos":
        return  # the public names, loaded when they are used
    for name in imported(path):
        assert name.split(".")[0] not in FORBIDDEN, f"{module} imports {name}"
        if name.split(".")[0] in ("jaxvos", "data_pipelines") and name != "jaxvos":
            assert level(name) <= level(module), f"{module} imports {name} from above"
        sibling = name.startswith("jaxvos.systems.") and module.startswith("jaxvos.systems.")
        assert not sibling, f"{module} imports another system, {name}"


def test_import_is_light():
    code = "import sys, jaxvos; print(*sorted({'jax', 'flax', 'cv2', 'av'} & set(sys.modules)))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == []


def test_wheel_holds_the_recipes_and_works_away_from_the_checkout(tmp_path):
    run = lambda *a, **k: subprocess.run(  # noqa: E731
        [sys.executable, *a], capture_output=True, text=True, check=True, **k
    )
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import jaxvos, data_pipelines, jaxvos.recipe as r;"
        "print(jaxvos.__file__); print(r.folder());"
        "print(r.read_recipe('configs/cosnet.py:smoke').steps)"
    )
    environment = dict(os.environ, PYTHONPATH=str(site))
    inside, recipes, steps = run("-c", code, cwd=empty, env=environment).stdout.split()
    assert Path(inside).is_relative_to(site) and Path(recipes) == site / "jaxvos" / "recipes"
    assert steps == "2"
    assert {p.name for p in Path(recipes).glob("*.py")} == {
        p.name for p in (ROOT / "configs").glob("*.py")
    }
