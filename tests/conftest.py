"""Settings under which the tests catch most mistakes."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny networks are compiled for longer than they run: three times less so without optimisation.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Grain's workers read absl flags, which nothing parses under pytest.
flags.FLAGS.mark_as_parsed()

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout, for the tests that are marked with it."""
    assert SHARED.is_dir(), "no ../shared beside the checkout: only developers' machines have it"
    return SHARED


@pytest.hookimpl(tryfirst=True)  # before pytest picks by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the groups that are read off a test: what needs reference data, else full depth."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("reference")
        elif item.path.parent.name == "parity":
            item.add_marker("parity")
