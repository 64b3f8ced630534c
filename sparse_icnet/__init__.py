"""INT8 sparse inference of ICNet: a road scene in, a class map out, in NumPy and Numba.

>>> import sparse_icnet
>>> net = sparse_icnet.load()                    # the bundled weights
>>> class_map = net.segment("street.jpg")        # uint8, the size of the image   # doctest: +SKIP
>>> result = net.predict("street.jpg")           # classes, shares, confidence ...   # doctest: +SKIP
>>> result.overlay(palette="colour-blind").save("overlay.png")                       # doctest: +SKIP

Importing this package imports neither NumPy nor Numba: `load` imports NumPy, the first inference Numba.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, which is slow to import: before `main` nothing handles Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from sparse_icnet.bundled import DEFAULT_WEIGHTS
    from sparse_icnet.image import ImageError
    from sparse_icnet.loading import load
    from sparse_icnet.model import Model
    from sparse_icnet.network.icnet import CLASSES, PALETTE
    from sparse_icnet.result import Result

__version__ = "0.1.0"
__all__ = ["CLASSES", "DEFAULT_WEIGHTS", "PALETTE", "ImageError", "Model", "Result", "__version__", "load"]

_HOMES = {
    "CLASSES": "sparse_icnet.network.icnet",
    "DEFAULT_WEIGHTS": "sparse_icnet.bundled",
    "ImageError": "sparse_icnet.image",
    "Model": "sparse_icnet.model",
    "PALETTE": "sparse_icnet.network.icnet",
    "Result": "sparse_icnet.result",
    "load": "sparse_icnet.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
