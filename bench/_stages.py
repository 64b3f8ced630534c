"""What one picture of a folder, or one frame of a film, costs on one core: the inference, and all that is done around it.

    python _stages.py MODEL HEIGHT WIDTH SOURCE SAVE DRAWN

SAVE are kinds of results, "classes" or "classes,overlay", DRAWN the format of overlays.  Everything is that of
`sparse-icnet segment`, the inference on one thread; what has threads of its own, as an encoder of films does, is kept on
the same core.  Prints one JSON line: milliseconds of processor time, of pictures the medians, of frames the mean.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 3


def main(model: str, height: str, width: str, source: str, save: str, drawn: str) -> None:
    import sparse_icnet
    from sparse_icnet import freed_memory, video
    from sparse_icnet.image import fit, to_rgb
    from sparse_icnet.jobs.sources import Source
    from sparse_icnet.jobs.work import Options, segment_source

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    freed_memory.keep()
    net = sparse_icnet.load(model, size=(int(height), int(width)), threads=1)
    film = not Path(source).is_dir()
    with tempfile.TemporaryDirectory() as name:
        kinds = tuple(save.split(","))
        options = Options(Path(name), save=kinds, save_of_films=kinds, drawn=drawn, overwrite=True)

        def segment(path: Path) -> float:
            """Milliseconds of processor time of one picture, or of each frame."""
            begin = time.process_time()
            (record,) = segment_source(net, Source(str(path), path.name), options)
            taken = time.process_time() - begin
            if record.error:
                raise OSError(record.error)
            return 1e3 * taken / (record.frames or 1)

        def infer(picture: object) -> float:
            rgb = to_rgb(picture)
            pixels, size = fit(rgb, net.size), (rgb.height, rgb.width)
            begin = time.process_time()
            net.session.scores_of_image(pixels, size)
            return 1e3 * (time.process_time() - begin)

        # In runs of their own, as `segment` runs: what is between two pictures is part of their costs.
        sources = [Path(source)] if film else sorted(Path(source).iterdir())
        segment(sources[0])
        whole = [segment(path) for _ in range(1 if film else REPEATS) for path in sources]
        if film:
            inference = [infer(picture) for _, picture in video.read(video.probe(source).stretch())]
        else:
            inference = [infer(path) for path in sources]
    ms = {"picture_ms": whole, "inference_ms": inference}
    print(json.dumps({key: round(float(np.median(value)), 3) for key, value in ms.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
