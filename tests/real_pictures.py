"""Real pictures that need no download: patches of scikit-learn's two photographs, and its handwritten digits."""

import numpy as np
from sklearn.datasets import load_digits, load_sample_images


def photo_patches(size=32, step=32):
    """Return square patches of two photographs in color, (n, size, size, 3); a smaller step makes them overlap."""
    return np.stack(
        [
            photo[top : top + size, left : left + size]
            for photo in load_sample_images().images
            for top in range(0, photo.shape[0] - size + 1, step)
            for left in range(0, photo.shape[1] - size + 1, step)
        ]
    )


def digits():
    """Return the 1,797 grey digits as (n, 8, 8), their 17 levels spread over 0..255, and their labels."""
    found = load_digits()
    return np.round(found.images * (255 / 16)).astype(np.uint8), found.target
