"""A folder of pictures -> a folder of class maps (and overlays) with OpenVINO: the simple loop that one would write.

    python _folder.py MODEL.xml FOLDER THREADS SAVE OUT

SAVE is "classes" or "classes,overlay".  Decoding and encoding are those of `sparse-icnet segment`.  All pictures must be
of one size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from _precision import openvino_precision


def main(model: str, folder: str, threads: str, save: str, out: str) -> None:
    from sparse_icnet.image import to_rgb
    from sparse_icnet.png import save_png
    from sparse_icnet.reference import openvino_peer
    from sparse_icnet.render import class_image, overlay

    sources = sorted(Path(folder).iterdir())
    picture = to_rgb(sources[0])
    size = picture.height, picture.width
    classes = openvino_peer.image_to_classes(model, int(threads), size, precision=openvino_precision())
    for source in sources:
        picture = to_rgb(source)
        result = classes(np.asarray(picture))
        save_png(class_image(result), Path(out) / f"{source.stem}.classes.png")
        if "overlay" in save:
            save_png(overlay(picture, result), Path(out) / f"{source.stem}.overlay.png")
    print(json.dumps({"pictures": len(sources)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
