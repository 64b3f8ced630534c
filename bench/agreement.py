"""Mean IoU of this engine and of OpenVINO, int8 and float FakeQuantize, on the same frames and model.

    python bench/agreement.py --data camvid --frames 20

Needs the extra `reference`.  Exit code 1: an execution of OpenVINO is more than 0.1 point away.
`sparse-icnet verify FOLDER --against openvino` compares the class maps pixel by pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import sparse_icnet
from sparse_icnet.cli.eval import pairs_of, read_label
from sparse_icnet.metrics import confusion_matrix, score
from sparse_icnet.reference.openvino_peer import OpenVinoModel

ALLOWED_POINTS = 0.1


def main() -> int:
    """Print a line for each execution; 0 if all agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with val/ and valannot/")
    parser.add_argument(
        "--frames", type=int, default=20, help="spread over the validation frames; default 20"
    )
    parser.add_argument("--model", default=None, help="default: the bundled weights")
    arguments = parser.parse_args()
    net = sparse_icnet.load(arguments.model)
    engines = {
        "sparse-icnet": net,
        "OpenVINO int8": OpenVinoModel(net.graph),
        "OpenVINO float": OpenVinoModel(net.graph, int8=False),
    }
    try:
        pairs = pairs_of(arguments.data, "val")
    except ValueError as error:
        parser.error(str(error))
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(arguments.frames, len(pairs))).astype(int)]
    classes = len(net.class_names)
    confusions = {name: np.zeros((classes, classes), np.int64) for name in engines}
    for frame, annotation in chosen:
        blob, label = net.blob(frame), read_label(annotation, net)
        for name, engine in engines.items():
            confusions[name] += confusion_matrix(label, engine(blob)[0].argmax(0).astype(np.uint8))
    means = {name: 100 * score(confusion).mean for name, confusion in confusions.items()}
    for name, mean in means.items():
        print(f"{name:15} {mean:.3f} % mIoU on {len(chosen)} frames")
    return int(any(abs(mean - means["sparse-icnet"]) > ALLOWED_POINTS for mean in means.values()))


if __name__ == "__main__":
    raise SystemExit(main())
