"""From a file to a model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sparse_icnet import bundled, formats
from sparse_icnet.arguments import checked_size
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import Model
from sparse_icnet.network.bgr import for_rgb
from sparse_icnet.network.digest import digest
from sparse_icnet.network.graph import Graph, GraphError, Size, resized


def load(
    path: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    threads: int | None = None,
    class_names: Sequence[str] | None = None,
    output: str | None = None,
    bgr: bool = False,
) -> Model:
    """Load a network.

    path     native .npz, OpenVINO IR (.xml) or ONNX file; the name of a bundled model
             (`sparse_icnet.bundled.names()`); None: the default bundled weights, DEFAULT_WEIGHTS
    size     (height, width) of the network input, multiples of 32 for ICNet; None: as the file says, and 768x960
             where it leaves them free (`Graph.size_is_free`); the bundled weights say 768x960
    threads  of one inference; None: one for each core this process may use
    class_names  one for each class; None: as the file says, else those of CamVid for 12 classes, else "class 0" ...
    output   name of the output to compute, of a file with several, such as a network with auxiliary heads
    bgr      whether the file expects pictures as blue, green, red, as OpenCV reads them: only an .npz can say so by itself.
             Pictures stay RGB for `segment` and `predict`; `net(blob)` keeps the order of the file

    Bundled files are checked against their digests.  Raises OSError for a file that cannot be read,
    FormatError (a ValueError) for one that is not a model or that the engine cannot run, ValueError for an
    impossible size or threads.
    """
    from sparse_icnet.plan import PlanError

    file = bundled.resolve(path)
    bundled.check_digest(file)
    stated = formats.load(file, output)
    graph = _at_size(stated, size)
    try:
        model = Model(for_rgb(graph) if bgr and not graph.faces.input.bgr else graph, threads, class_names)
    except (GraphError, PlanError) as error:
        raise FormatError(f"{file}: {error}") from error
    model.path, model.output_name, model.bgr = file.resolve(), output, bgr
    model.stated_size = None if stated.size_is_free else stated.input.shape[1:]
    return model


def reloaded(
    path: str,
    size: Size,
    threads: int | None,
    class_names: tuple[str, ...],
    expected: str,
    output: str | None,
    bgr: bool,
) -> Model:
    """What a pickled model becomes: the same network from the same file, or FormatError."""
    model = load(path, size, threads, class_names, output, bgr)
    if (found := digest(model.graph)) != expected:
        raise FormatError(
            f"{model.path}: expected the network that was pickled (SHA-256 {expected}), found another one ({found})"
        )
    return model


def _at_size(graph: Graph, size: Size | None) -> Graph:
    return graph if size is None else resized(graph, checked_size(size))
