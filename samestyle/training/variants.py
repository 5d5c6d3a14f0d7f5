"""Changed copies of a photo: what another offer of the same style might have looked like."""

import cv2
import numpy as np

WHITE = (255, 255, 255)
SMALLEST_CROP = 0.7  # of a side
BRIGHTNESS, CONTRAST = 25.0, 0.2


def variants_of(image: np.ndarray, number: int, seed: int) -> list[np.ndarray]:
    """`number` of them, the photo itself first; the same for the same seed."""
    return [image, *(changed(image, np.random.default_rng((seed, variant))) for variant in range(1, number))]


def changed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A crop of the photo, mirrored or not, brighter or darker: (size, size, 3) uint8 both."""
    size = len(image)
    side = round(size * random.uniform(SMALLEST_CROP, 1))
    top, left = random.integers(0, size - side + 1, 2)
    crop = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        crop = crop[:, ::-1]
    gain, shift = 1 + random.uniform(-CONTRAST, CONTRAST), random.uniform(-BRIGHTNESS, BRIGHTNESS)
    lit = np.clip(gain * (crop.astype(np.float32) - 128) + 128 + shift, 0, 255).astype(np.uint8)
    # The padding of a photo that is not square is white, whatever the light.
    return np.where((crop == WHITE).all(axis=2, keepdims=True), crop, lit)
