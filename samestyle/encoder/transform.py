"""Centring, projection and half-whitening of each side's features, kept in a small safetensors file."""

import json
import struct
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from samestyle.errors import IntegrityError, UsageError

SIDES = ("image", "text")
# Fewer samples than this for each dimension of a half measure their own noise.
SAMPLES_A_DIMENSION = 4


@dataclass(frozen=True)
class Transform:
    """half = (features - mean) @ components.T * scales, then unit length.

    mean (features,) float32; components (half, features), orthonormal rows as fitted; scales (half,) float32, the
    eigenvalues of the covariance ** -1/4: halfway between keeping the variances (0) and whitening (-1/2). Calibrated,
    the components carry the scales, which are 1.
    """

    mean: np.ndarray
    components: np.ndarray
    scales: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, half: int) -> "Transform":
        """Fit on (samples, features) float32, samples > half; same input, same bits on one machine."""
        samples = features.astype(np.float64)
        mean = samples.mean(axis=0)
        eigenvalues, vectors = np.linalg.eigh(np.cov(samples - mean, rowvar=False))
        components = vectors[:, ::-1][:, :half].T
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(half), largest])[:, None]
        scales = eigenvalues[::-1][:half] ** -0.25
        return cls(mean.astype(np.float32), components.astype(np.float32), scales.astype(np.float32))

    def calibrated(self, features: np.ndarray) -> "Transform":
        """This projection, centred and half-whitened for another catalogue: (samples, features) float32, no labels.

        Raises UsageError for fewer than 4 samples a dimension.
        """
        samples, half = features.astype(np.float64), len(self.components)
        if len(samples) < SAMPLES_A_DIMENSION * half:
            raise UsageError(
                f"{len(samples):,} distinct samples were found, expected at least {SAMPLES_A_DIMENSION * half:,}, "
                f"{SAMPLES_A_DIMENSION} for each of {half} dimensions: take a larger sample or another catalogue"
            )
        mean = samples.mean(axis=0)
        whitening = half_whitening(np.cov((samples - mean) @ self.components.T, rowvar=False), len(samples))
        components = (whitening @ self.components).astype(np.float32)
        return Transform(mean.astype(np.float32), components, np.ones(half, np.float32))


def half_whitening(covariance: np.ndarray, samples: int) -> np.ndarray:
    """The symmetric matrix covariance ** -1/4, (half, half) float64: of all that half-whiten, it turns axes the least.

    That matters because a fusion has learnt its step along these axes. The covariance is first drawn towards its
    diagonal, by as much as it is noise: a fifth where 4 samples a dimension measured it, 3 % where 32 did.
    """
    drawn = len(covariance) / (len(covariance) + samples)
    eigenvalues, vectors = np.linalg.eigh((1 - drawn) * covariance + drawn * np.diag(np.diag(covariance)))
    # What hardly varies in this catalogue is not blown up: at most ten times as much as what varies the most.
    kept = np.maximum(eigenvalues, 1e-4 * eigenvalues[-1])
    return (vectors * kept**-0.25) @ vectors.T


def to_bytes(transforms: dict[str, Transform], about: dict[str, str]) -> bytes:
    """Both sides as one safetensors file, `about` its metadata; components in fp16, which costs no recall."""
    tensors = {
        f"{side}.{name}": np.ascontiguousarray(value, np.float16 if name == "components" else np.float32)
        for side, transform in transforms.items()
        for name, value in vars(transform).items()
    }
    return save(tensors, about)


def from_bytes(data: bytes) -> dict[str, Transform]:
    """The transform of each side; IntegrityError where `data` is no such file."""
    try:
        tensors = load(data)
        return {
            side: Transform(*(tensors[f"{side}.{name}"] for name in ("mean", "components", "scales"))) for side in SIDES
        }
    except Exception as error:  # safetensors raises its own class, and KeyError and ValueError for foreign content
        raise IntegrityError(
            f"not a transform of this project ({error!r}); expected safetensors with mean, components "
            f"and scales of {' and '.join(SIDES)}: fit one with python -m samestyle.training.projection"
        ) from error


def metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, read from its header."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})
