"""The projection: fitted, kept and read back."""

import numpy as np
import pytest

from samestyle.encoder.sources import TRANSFORM
from samestyle.encoder.transform import Transform, from_bytes, half_whitening, metadata, to_bytes
from samestyle.errors import IntegrityError, UsageError
from samestyle.training.projection import held_out


def test_half_whitening_takes_the_square_root_of_each_deviation() -> None:
    samples = np.random.default_rng(0).normal(size=(20_000, 3)) * [1.0, 9.0, 4.0] + 5
    transform = Transform.fit(samples, half=2)
    halves = (samples - transform.mean) @ transform.components.T * transform.scales
    np.testing.assert_allclose(np.abs(transform.components), [[0, 1, 0], [0, 0, 1]], atol=0.02)
    np.testing.assert_allclose(halves.std(axis=0), [3, 2], rtol=0.02)
    np.testing.assert_allclose(halves.mean(axis=0), 0, atol=1e-4)


# Keeps the second and the third of three features, the second turned round.
BASE = Transform(np.zeros(3), np.array([[0, -1, 0], [0, 0, 1.0]]), np.array([0.5, 2.0]))


def test_calibration_takes_the_root_of_the_covariance_and_keeps_the_axes() -> None:
    """Of the kept features the deviations are 4 and 3, and their correlation is 0.5."""
    random = np.random.default_rng(0).normal(size=(20_000, 3))
    samples = np.stack([9 * random[:, 0], 4 * random[:, 1], 1.5 * random[:, 1] + 1.5 * 3**0.5 * random[:, 2]], 1) + 5
    calibrated = BASE.calibrated(samples)
    halves = (samples - calibrated.mean) @ calibrated.components.T * calibrated.scales
    covariance = np.cov(halves, rowvar=False)
    np.testing.assert_allclose(covariance @ covariance, [[16, -6], [-6, 9]], rtol=0.03)
    np.testing.assert_allclose(halves.mean(axis=0), 0, atol=1e-3)
    turned = calibrated.components @ BASE.components.T
    np.testing.assert_allclose(turned, turned.T, atol=1e-6)
    assert np.diag(turned).min() > 4 * abs(turned[0, 1]) > 0


def test_a_covariance_of_few_samples_is_drawn_towards_its_diagonal() -> None:
    """Two dimensions and 8 samples: by 2 / 10."""
    whitening = half_whitening(np.array([[1, 0.5], [0.5, 1]]), 8)
    np.testing.assert_allclose(np.linalg.matrix_power(whitening, -4), [[1, 0.4], [0.4, 1]], atol=1e-9)


def test_what_hardly_varies_is_not_blown_up() -> None:
    """The narrow axis counts as one of a ten-thousandth of the variance: ten times as much as the wide one."""
    np.testing.assert_allclose(half_whitening(np.diag([16.0, 0.0]), 100), [[0.5, 0], [0, 5]], atol=1e-9)


def test_too_few_samples_calibrate_nothing() -> None:
    samples = np.random.default_rng(0).normal(size=(8, 3))
    assert BASE.calibrated(samples).components.shape == (2, 3)
    with pytest.raises(UsageError, match="7 distinct samples were found, expected at least 8"):
        BASE.calibrated(samples[:7])


def test_a_transform_survives_being_written() -> None:
    rng = np.random.default_rng(0)
    transforms = {
        "image": Transform.fit(rng.normal(size=(50, 9)), 4),
        "text": Transform.fit(rng.normal(size=(50, 6)), 4),
    }
    data = to_bytes(transforms, {"fitted_on": "noise"})
    assert metadata(data) == {"fitted_on": "noise"}
    for side, transform in from_bytes(data).items():
        np.testing.assert_array_equal(transform.mean, transforms[side].mean)
        np.testing.assert_array_equal(transform.scales, transforms[side].scales)
        np.testing.assert_allclose(transform.components, transforms[side].components, atol=1e-3)


def test_the_shipped_transform_is_small_and_says_what_it_was_fitted_on() -> None:
    data = TRANSFORM.read_bytes()
    assert len(data) < 1_000_000
    assert {side: (part.components.shape, part.mean.shape) for side, part in from_bytes(data).items()} == {
        "image": ((160, 2224), (2224,)),
        "text": ((96, 384), (384,)),
    }
    fitted_on = metadata(data)["fitted_on"]
    assert all(name in fitted_on for name in ("grocery_store", "retail_demo_store", "emoji_multivendor", "demo"))
    assert "luma" not in fitted_on


def test_a_foreign_file_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not a transform of this project"):
        from_bytes(b"PK\x03\x04 something else")


def test_held_out_rows_are_whole_groups() -> None:
    groups = np.array(list("abcdeabcdeab"))
    kept = held_out(groups)
    assert len(set(groups[kept])) == 2
    assert not set(groups[kept]) & set(groups[~kept])
