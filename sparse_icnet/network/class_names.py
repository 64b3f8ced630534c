"""The names of a network's classes: as given, as its file states them, or those of CamVid."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_icnet.network.graph import Argmax, Bilinear, Graph, GraphError, Resize, Softmax
from sparse_icnet.network.icnet import CLASSES
from sparse_icnet.network.meta import checked_class_names


def class_names_of(graph: Graph, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Those `given`, else those of the file, else CamVid's for as many classes, else "class 0" and so on.

    Raises ValueError where there are not as many as classes, and what `checked_class_names` raises.
    """
    count, stated = _class_count(graph), graph.meta.class_names
    if given is not None:
        return checked_class_names(given, count)
    if stated and len(stated) != count:
        raise GraphError(f"meta: expected {count} class names, one for each class, found {len(stated)}")
    return stated or (CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count)))


def _class_count(graph: Graph) -> int:
    """Channels of the logits: of what the last softmax or argmax reads, if there is one."""
    op = graph[graph.output]
    while isinstance(op, Resize | Bilinear | Softmax | Argmax):
        op = graph[op.input]
    return graph.shape(op.name)[0]
