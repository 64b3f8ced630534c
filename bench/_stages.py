"""What one picture of a folder costs on one core: the inference, and all that is done around it.

    python _stages.py MODEL HEIGHT WIDTH FOLDER SAVE

SAVE are kinds of results, "classes" or "classes,overlay".  Everything is that of `sparse-icnet segment`.  Prints one JSON
line: medians in milliseconds of processor time, on one thread.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 3


def main(model: str, height: str, width: str, folder: str, save: str) -> None:
    import sparse_icnet
    from sparse_icnet.image import fit, to_rgb
    from sparse_icnet.jobs.sources import Source
    from sparse_icnet.jobs.work import Options, segment_source

    net = sparse_icnet.load(model, size=(int(height), int(width)), threads=1)
    sources = sorted(Path(folder).iterdir())
    whole, inference = [], []
    with tempfile.TemporaryDirectory() as name:
        options = Options(Path(name), save=tuple(save.split(",")), overwrite=True)
        for _ in range(REPEATS):
            for path in sources:
                begin = time.thread_time()
                records = list(segment_source(net, Source(str(path), path.name), options))
                whole.append(time.thread_time() - begin)
                if any(record.error for record in records):
                    raise OSError(records[0].error)
                picture = to_rgb(path)
                pixels, size = fit(picture, net.size), (picture.height, picture.width)
                begin = time.thread_time()
                net.session.scores_of_image(pixels, size)
                inference.append(time.thread_time() - begin)
    ms = {"picture_ms": whole, "inference_ms": inference}
    print(json.dumps({key: round(1e3 * float(np.median(value)), 3) for key, value in ms.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
