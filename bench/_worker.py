"""One engine in a process of its own, driven by one JSON request a line on stdin, one reply a line on stdout.

    open     case, model, size, threads, input (.npy)  -> seconds
    run      seconds, least                            -> ms, of at least so many runs, after one untimed
    classes  path (.npy)                               -> nothing; writes the last class map, uint8 (H, W)
    close                                              -> nothing

Cases: "probabilities" (float32 blob -> float32 probabilities), "classes" (uint8 RGB image -> uint8 class map, both of
the network's size) and "smooth" (the same of bilinearly interpolated logits; to a peer the model is a file that ends in
that).  A failure is answered by {"error": "..."}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _precision import openvino_precision
from numpy.typing import NDArray

Call = Callable[[NDArray], NDArray]


def open_sparse_icnet(case: str, model: str, size: tuple[int, int], threads: int) -> Call:
    """The public interface of this package."""
    import sparse_icnet

    net = sparse_icnet.load(model, size=size, threads=threads)
    if case != "probabilities":
        return lambda image: net.segment(image, smooth=case == "smooth")
    out = np.empty((1, len(net.class_names), *size), np.float32)
    return lambda blob: net(blob, out=out)


def open_openvino(case: str, model: str, size: tuple[int, int], threads: int) -> Call:
    """OpenVINO at its fastest: latency hint, no copies, preprocessing and argmax in its graph."""
    from sparse_icnet.reference import openvino_peer

    if case != "probabilities":
        return openvino_peer.image_to_classes(model, threads, precision=openvino_precision())
    return openvino_peer.blob_to_probabilities(model, threads, precision=openvino_precision())


def open_onnxruntime(case: str, model: str, size: tuple[int, int], threads: int) -> Call:
    """ONNX Runtime at its fastest: bound outputs, preprocessing and argmax in its graph."""
    from sparse_icnet.reference import onnxruntime_peer

    if case != "probabilities":
        session = onnxruntime_peer.OnnxRuntimeModel(
            Path(model).with_suffix(".image.onnx"), threads, exact=False
        )
        return lambda image: session(image[None])[0, 0]
    return onnxruntime_peer.blob_to_probabilities(model, threads)


ENGINES = {"sparse-icnet": open_sparse_icnet, "openvino": open_openvino, "onnxruntime": open_onnxruntime}


class _Engine:
    def __init__(self, name: str) -> None:
        self.open_model = ENGINES[name]
        self.call: Call | None = None
        self.input: NDArray = np.empty(0)
        self.result: NDArray = np.empty(0)

    def open(self, case: str, model: str, size: list[int], threads: int, input: str) -> dict[str, Any]:
        start = time.perf_counter()
        self.input = np.load(input)
        self.call = self.open_model(case, model, (size[0], size[1]), threads)
        self.result = self.call(self.input)
        return {"seconds": time.perf_counter() - start}

    def run(self, seconds: float, least: int) -> dict[str, Any]:
        call, data = self.call, self.input
        assert call is not None
        call(data)
        times = []
        begin = time.perf_counter()
        while len(times) < least or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            result = call(data)
            times.append(1e3 * (time.perf_counter() - start))
        self.result = result
        return {"ms": times}

    def classes(self, path: str) -> dict[str, Any]:
        result = np.asarray(self.result)
        if result.dtype == np.float32:
            result = result[0].argmax(0).astype(np.uint8)
        np.save(path, result)
        return {}

    def close(self) -> dict[str, Any]:
        self.call, self.result = None, np.empty(0)
        gc.collect()
        return {}


def main(name: str) -> None:
    # Libraries may print: what they print goes to stderr, the replies keep the pipe for themselves.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = _Engine(name)
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(engine, request.pop("do"))(**request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
