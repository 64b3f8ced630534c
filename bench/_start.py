"""A fresh process of one engine: picture file -> first class map, then a few more, then peak memory.

    python _start.py ENGINE MODEL PICTURE HEIGHT WIDTH THREADS [CACHE]

CACHE is a folder for OpenVINO's compiled models, which it otherwise does not keep.

Prints one JSON line as soon as the first class map is there, and one at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _precision import openvino_precision

MORE = 5


def opened(
    engine: str, model: str, size: tuple[int, int], threads: int, cache: str | None
) -> Callable[[str], Any]:
    """Function picture file -> uint8 class map; imports nothing that the engine does not need."""
    if engine == "sparse-icnet":
        import sparse_icnet

        return sparse_icnet.load(model, size=size, threads=threads).segment

    import numpy as np
    from PIL import Image

    def pixels(path: str) -> Any:
        return np.asarray(Image.open(path).convert("RGB"))

    if engine == "openvino":
        from sparse_icnet.reference import openvino_peer

        if cache:  # the adapter has no option for it
            usual = openvino_peer.settings
            openvino_peer.settings = lambda **chosen: usual(**chosen) | {"CACHE_DIR": cache}
        classes = openvino_peer.image_to_classes(model, threads, precision=openvino_precision())
        return lambda path: classes(pixels(path))
    from sparse_icnet.reference import onnxruntime_peer

    session = onnxruntime_peer.OnnxRuntimeModel(Path(model).with_suffix(".image.onnx"), threads, exact=False)
    return lambda path: session(pixels(path)[None])[0, 0]


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Not ru_maxrss where it can be helped: on Linux that counts the memory of the parent, before exec, too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(
    engine: str, model: str, picture: str, height: str, width: str, threads: str, cache: str | None = None
) -> None:
    segment = opened(engine, model, (int(height), int(width)), int(threads), cache)
    first = segment(picture)
    print(json.dumps({"shape": list(first.shape)}), flush=True)
    for _ in range(MORE):
        segment(picture)
    print(json.dumps({"peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
