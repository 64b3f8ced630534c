"""Folders of JPEG files, and a film, to result files: pictures a second, and what the cores would allow without waiting.

A rate with the start of the process says what a user waits for, the one behind the start what the engine does: what a
run over few pictures takes, one for each thread, is taken off.  The bound is the processor time of one picture on one
core (_stages.py), all that is done around the inference and the inference on one thread, divided by as many cores as
there are threads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common import summary
from _models import write_film, write_pictures
from _processes import HERE, WorkerError, fresh
from _report import OURS

from sparse_icnet.network.graph import Size

FRAMES = 3  # of the film for each picture of the folder


@dataclass
class Many:
    """What is measured alike for all models.

    folder    for the sources and the results
    pictures  in the folder; threads of each run; repeats of each measurement
    problems  what went wrong
    """

    folder: Path
    pictures: int
    threads: int
    repeats: int
    environment: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def folders(
        self, model: str, paths: Mapping[str, str], size: Size, engines: Sequence[str], save: str, drawn: str
    ) -> list[dict[str, Any]]:
        """A row for each engine; `save` and `drawn` as of `sparse-icnet segment`, `paths` of the model by engine."""
        sources = self.folder / "pictures", self.folder / "few"
        counts = self.pictures, max(1, min(self.threads, self.pictures - 1))
        for source, count in zip(sources, counts, strict=True):
            if not source.exists():
                write_pictures(source, count)
        commands = {OURS: lambda source: [*self._segment(paths[OURS], size, save, drawn), str(source), "-o"]}
        if "openvino" in engines:
            peer = str(HERE / "_folder.py"), paths["openvino"]
            commands["openvino"] = lambda source: [*peer, str(source), str(self.threads), save]
        rows = []
        for engine, seconds in self._in_turns(commands, sources, counts, save).items():
            what = {"engine": engine, "model": model, "threads": self.threads, "save": save, "drawn": drawn}
            rows.append(what | self._rates(counts, seconds))
            if engine == OURS:
                rows[-1] |= self._bound(rows[-1], paths[OURS], size, sources[0], save, drawn)
        return rows

    def film(self, model: str, path: str, size: Size) -> list[dict[str, Any]]:
        """A film to a film of overlays, by this engine: pictures are its frames."""
        sources = self.folder / "film.mp4", self.folder / "few.mp4"
        counts = FRAMES * self.pictures, max(1, min(self.threads, self.pictures - 1))
        for source, count in zip(sources, counts, strict=True):
            if not source.exists():
                write_film(source, count)
        commands = {OURS: lambda source: [*self._segment(path, size, "overlay", "png"), str(source), "-o"]}
        seconds = self._in_turns(commands, sources, (1, 1), "overlay")
        if OURS not in seconds:
            return []
        row = {"engine": OURS, "model": model, "threads": self.threads, "save": "overlay", "drawn": "film"}
        row |= self._rates(counts, seconds[OURS])
        return [row | self._bound(row, path, size, sources[0], "overlay", "png")]

    def _segment(self, model: str, size: Size, save: str, drawn: str) -> list[str]:
        words = f"-m sparse_icnet segment --quiet --save {save} --drawn {drawn} --threads {self.threads}"
        return [*words.split(), "--size", "x".join(map(str, size)), "--model", model]

    def _in_turns(
        self,
        commands: Mapping[str, Callable[[Path], list[str]]],
        sources: tuple[Path, Path],
        files: tuple[int, int],
        save: str,
    ) -> dict[str, list[tuple[float, float]]]:
        """Engine -> seconds of many and of few pictures, of each repetition."""
        seconds: dict[str, list[tuple[float, float]]] = {}
        for _ in range(self.repeats):
            for engine, command in commands.items():
                try:
                    many, few = (
                        self._taken(command(source), save, count)
                        for source, count in zip(sources, files, strict=True)
                    )
                    seconds.setdefault(engine, []).append((many, few))
                except WorkerError as error:
                    self.problems.append(str(error))
        return seconds

    def _taken(self, command: list[str], save: str, files: int) -> float:
        """Seconds of a command, to which the folder of the results is added; notes where some are missing."""
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            begin = time.perf_counter()
            fresh([*command, out], self.environment)
            taken = time.perf_counter() - begin
            for kind in save.split(","):
                done = len(list(Path(out).glob(f"*.{kind}.*")))
                if done != files:
                    self.problems.append(f"{' '.join(command[:3])}: {done} of {files} {kind}")
        return taken

    def _rates(self, counts: tuple[int, int], seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
        many, few = counts
        more = float(np.median([taken for taken, _ in seconds]) - np.median([start for _, start in seconds]))
        return {
            "pictures": many,
            "pictures_per_second": summary([many / taken for taken, _ in seconds]),
            "behind_the_start": round((many - few) / more, 2) if more > 0 else None,
        }

    def _bound(
        self, row: Mapping[str, Any], model: str, size: Size, source: Path, save: str, drawn: str
    ) -> dict[str, Any]:
        stages = [str(HERE / "_stages.py"), model, *map(str, size), str(source), save, drawn]
        try:
            bound = fresh(stages, self.environment)[1]
        except WorkerError as error:
            self.problems.append(str(error))
            return {}
        most = round(1e3 * self.threads / bound["picture_ms"], 2)
        rate = row["behind_the_start"]
        return {
            "bound": bound | {"pictures_per_second": most},
            "share_of_bound": None if rate is None else round(rate / most, 3),
        }
