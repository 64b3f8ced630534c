"""Stored digests of both bundled models: engine and oracle cannot drift together.

A file of weights that changes on purpose gets new digests: `python tests/run/test_digest.py` prints the table.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

import sparse_icnet
from sparse_icnet import bundled
from sparse_icnet.network.graph import Size

# Name -> size -> first 16 digits of SHA-256: of the file, the class map (uint8, blocks), the probabilities (float32).
DIGESTS = {
    "icnet-camvid-int8-sparse-60": {
        (192, 192): ("111cf78f24fd2320", "500c37212b7116cb", "9b8e8ec094cbc355"),
        (768, 960): ("111cf78f24fd2320", "64881635a75d0f30", "323c1592163bca51"),
    },
    "icnet-camvid-int8-block4x4": {
        (192, 192): ("ffb879e4dc60d10f", "c62a279c21a0507f", "8f5c1b6812f80baf"),
        (768, 960): ("ffb879e4dc60d10f", "17f5c78775ff70c8", "5f5c81aa5af4885f"),
    },
}
SIZES = ((192, 192), (768, 960))


def picture(size: Size = SIZES[0]) -> NDArray[np.uint8]:
    """RGB uint8 (height, width, 3) of whole numbers alone: no decoder and no resampling that could change."""
    y, x, c = np.meshgrid(*map(np.arange, (*size, 3)), indexing="ij")
    waves = (x * x // 37 + y * (5 + c) + (x // 24 + y // 16) % 2 * 90 + (x ^ y) // 3 * c) % 256
    return waves.astype(np.uint8)


def digests(name: str, size: Size = SIZES[0], threads: int = 1) -> tuple[str, str, str]:
    """What DIGESTS holds of a bundled model at a size."""
    net = sparse_icnet.load(name, size=size, threads=threads)
    classes = net.session.class_map_of_image(picture(size))
    probabilities = net.session.probabilities_of_image(picture(size))
    assert classes.dtype == np.uint8
    assert probabilities.dtype == np.float32
    assert np.unique(classes).size >= 4, "a trivial class map proves nothing"
    contents = bundled.resolve(name).read_bytes(), classes.tobytes(), probabilities.tobytes()
    first, second, third = (hashlib.sha256(content).hexdigest()[:16] for content in contents)
    return first, second, third


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_bundled_models_keep_every_bit(name, size):
    assert digests(name, size) == DIGESTS[name][size]


if __name__ == "__main__":
    for known in DIGESTS:
        print(f'    "{known}": {{')
        for known_size in SIZES:
            print(f"        {known_size}: {digests(known, known_size)},".replace("'", '"'))
        print("    },")
