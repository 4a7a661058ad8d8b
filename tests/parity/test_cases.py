"""Weights and inputs of the parity cases are what the reference side makes from the same names."""

import numpy as np
import pytest

from . import cases


def test_weights_and_inputs_are_made_as_the_reference_makes_them():
    np.testing.assert_allclose(
        cases.draw("cosnet/dev", "linear_e.weight", (256, 256))[0, :3],
        [0.014524, 0.307000, 0.016571],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        cases.image("cosnet/dev", "target", (1, 3, 97, 160))[0, 0, 5, :3],
        [0.149479, 0.110728, -0.031966],
        atol=1e-6,
    )


def test_a_folder_without_a_case_fails_instead_of_checking_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVOS_PARITY_CASES", str(tmp_path))
    assert cases.folders("cosnet") == [None]
    with pytest.raises(AssertionError, match="holds no parity case"):
        cases.load(None)
