"""What tells two networks apart."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np

from sparse_icnet.network.faces import Faces
from sparse_icnet.network.graph import Graph


def digest(graph: Graph) -> str:
    """SHA-256, in hexadecimal, of what a network computes: operations, output, normalization, and faces if not the default.

    `meta` and `size_is_free` do not count.
    """
    total = hashlib.sha256(repr((graph.output, graph.normalization)).encode())
    if graph.faces != Faces():
        total.update(repr(graph.faces).encode())
    for op in graph:
        total.update(type(op).__name__.encode())
        for spec in fields(op):
            value = getattr(op, spec.name)
            if isinstance(value, np.ndarray):
                total.update(f"{spec.name} {value.dtype.str} {value.shape}".encode())
                total.update(np.ascontiguousarray(value).data)
            else:
                total.update(f"{spec.name} {value!r}".encode())
    return total.hexdigest()
