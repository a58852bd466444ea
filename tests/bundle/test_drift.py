"""Drift, against closed forms and NumPy's own histogram."""

import math

import numpy as np
import pytest

from bundle import drift
from bundle.images import brightness


def test_the_index_is_the_sum_that_its_definition_says() -> None:
    """Two bins of 0.8 and 0.2 against 0.5 and 0.5: 0.3 ln 1.6 - 0.3 ln 0.4, up to the prior's half image."""
    found = drift.psi(np.array([800_000.0, 200_000.0]), np.array([500_000.0, 500_000.0]))
    assert found == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4), rel=1e-5)


def test_the_index_is_symmetric_and_zero_for_equal_shares() -> None:
    """As the divergence of Jeffreys is."""
    a, b = np.array([100.0, 300.0, 5.0]), np.array([50.0, 20.0, 900.0])
    assert drift.psi(a, b) == pytest.approx(drift.psi(b, a))
    assert drift.psi(a, a) == 0
    assert drift.psi(1000 * a, a) < 1e-3


def test_an_empty_bin_gives_a_finite_index() -> None:
    """Border pixels of MNIST are black: most bins of the reference are empty."""
    assert 1 < drift.psi(np.array([0.0, 1000.0]), np.array([1000.0, 0.0])) < math.inf


def test_few_images_have_no_index() -> None:
    """Below a hundred it would measure chance; NaN makes no alert fire."""
    assert math.isnan(drift.psi(np.array([99.0, 0.0]), np.array([1.0, 1.0])))
    assert not math.isnan(drift.psi(np.array([99.0, 1.0]), np.array([1.0, 1.0])))


def test_images_are_measured_by_their_mean_and_their_border() -> None:
    """Mean of all pixels, and mean of the 108 at the border, written as slices here."""
    images = np.random.default_rng(3).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    assert np.allclose(brightness.mean_ink(images), images.mean(axis=(1, 2)))
    rows = images[:, [0, -1], :].reshape(50, 56)
    columns = images[:, 1:-1, [0, -1]].reshape(50, 52)
    assert np.allclose(
        brightness.border_brightness(images), np.concatenate([rows, columns], axis=1).mean(axis=1)
    )


def test_values_are_binned_as_numpy_does() -> None:
    """Edges included; the manifest's counts were made by `numpy.histogram`."""
    edges = np.linspace(0, 256, 33)
    values = np.concatenate([np.random.default_rng(4).uniform(0, 256, 500), edges])
    assert drift.binned(values, edges).tolist() == np.histogram(values, edges)[0].tolist()
    assert drift.binned(np.array([-1.0, 300.0]), edges)[[0, -1]].tolist() == [1, 1]
