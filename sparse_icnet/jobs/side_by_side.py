"""Several pictures at the same time, each by an inference with few threads of its own.

Pictures are independent of each other, and one thread that waits for none does more of an inference in a second than one of
several, which meet after every layer: two inferences of one thread each are done sooner than two of two threads, one
after the other.  Above all, a thread that encodes does not keep the others of an inference waiting for its core.
"""

from __future__ import annotations

from queue import SimpleQueue

from PIL import Image

from sparse_icnet.model import Model
from sparse_icnet.network.graph import Size
from sparse_icnet.result import Result

MOST = 8  # pictures: what Python does for each, one after the other, takes some hundredths of an inference
MEMORY = 1 << 28  # bytes that all inferences together may write to beside those of the model itself


def division(threads: int, pictures: int | None = None, bytes_of_each: int = 1) -> tuple[int, int]:
    """(inferences at a time, threads of each), `threads` threads in all or few less.

    pictures       how many there are; None: many
    bytes_of_each  memory that an inference writes to

    >>> division(1), division(2), division(12), division(64)
    ((1, 1), (2, 1), (6, 2), (8, 8))
    >>> division(2, pictures=1), division(8, pictures=3), division(8, bytes_of_each=MEMORY // 2)
    ((1, 2), (3, 2), (2, 4))
    """
    most = max(1, min(MOST, MEMORY // bytes_of_each, threads if pictures is None else pictures))
    fewest = max(1, threads // most)
    divisions = [(min(most, max(1, threads // each)), each) for each in (fewest, fewest + 1)]
    return max(divisions, key=lambda division: min(division[0] * division[1], threads))


class SideBySide:
    """A model for the pictures of several threads: so many of them are computed at a time, the others wait.

    count    inferences at a time
    threads  of each
    size     of the model
    """

    def __init__(self, model: Model, pictures: int | None = None) -> None:
        """Divide the threads of `model`; `pictures` as for `division`."""
        plan = model.session.plan
        self.size: Size = model.size
        self.count, self.threads = division(plan.threads, pictures, plan.shared.size)
        self._model = model
        self._free: SimpleQueue[Model | None] = SimpleQueue()
        for _ in range(self.count):
            self._free.put(model if self.count == 1 else None)  # None: is made when it is needed

    def predict(self, image: Image.Image, smooth: bool = True) -> Result:
        """As `Model.predict`."""
        model = self._free.get()
        try:
            if model is None:
                model = self._model.beside(self.threads)
            return model.predict(image, smooth)
        finally:
            self._free.put(model)
