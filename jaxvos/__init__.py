"""jaxvos: unsupervised video object segmentation in JAX and Flax.

    import jaxvos

    for scores in jaxvos.segment("clip.mp4", weights="weights.safetensors"):
        mask = scores > 0.5

The public names are loaded when they are first used, so that `import jaxvos` is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PUBLIC = {
    "Video": "jaxvos.typing",
    "SYSTEMS": "jaxvos.systems",
    "load": "jaxvos.systems",
    "open_video": "jaxvos.video",
    "segment": "jaxvos.programs.segment",
    "evaluate": "jaxvos.programs.evaluate",
}

try:
    __version__ = version("jaxvos")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "0+unknown"

__all__ = ["SYSTEMS", "Video", "__version__", "evaluate", "load", "open_video", "segment"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"jaxvos has no {name!r}. It has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
