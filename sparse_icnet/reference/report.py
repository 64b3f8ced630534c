"""What a comparison found, the bound on how far runtimes may differ, and the table that the command line prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Against = Literal["oracle", "openvino", "onnxruntime"]

FLOOR_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Difference:
    """How two results of one image differ.

    runtime     which execution the engine was compared with
    pixels      of the class map
    differing   pixels whose class differs
    largest, mean  absolute difference of the real values returned; NaN if the network returns classes
    equal       the same bits
    floor       pixels that differ between float32 and float64 evaluation; None against the oracle
    """

    runtime: str
    image: str
    pixels: int
    differing: int
    largest: float
    mean: float
    equal: bool
    floor: int | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first tensor, in the order of execution, that differs from the oracle."""

    image: str
    tensor: str
    codes: int
    differing: int
    largest: int

    def __str__(self) -> str:
        return (
            f"{self.image}: first diverges at {self.tensor!r}: {self.differing} of {self.codes} codes "
            f"differ, by up to {self.largest}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found; `str(report)` is the table that the command line prints.

    cell        pixels that share one decision, because the network enlarges its class scores
    trivial     results that prove nothing, one line each
    traced      intermediate tensors that were compared with the oracle and equal, before any divergence
    """

    against: Against
    cell: int
    differences: tuple[Difference, ...]
    trivial: tuple[str, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    traced: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, nothing was trivial, and every runtime agrees."""
        return bool(self.differences) and not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the report does not pass, one line each."""
        problems = list(self.trivial)
        problems += map(str, self.divergences)
        for runtime in self.runtimes:
            rows = [row for row in self.differences if row.runtime == runtime]
            if self.against == "oracle":
                unequal = [row.image for row in rows if not row.equal]
                if unequal:
                    problems.append(f"not the bits of the oracle: {', '.join(unequal)}")
                continue
            differing, allowed = sum(row.differing for row in rows), self.allowed(runtime)
            if differing > allowed:
                problems.append(f"{runtime}: {differing} pixels differ in class, at most {allowed} may")
        return tuple(problems)

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.runtime for row in self.differences))

    def allowed(self, runtime: str) -> int:
        """Pixels of all images together that may differ in class from `runtime`."""
        rows = [row for row in self.differences if row.runtime == runtime]
        return allowed_pixels(sum(row.floor or 0 for row in rows), self.cell)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        header = ("", "image", "argmax agreement", "noise floor", "largest", "mean difference")
        table = [header, *(self._row(row) for row in self.differences)]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        for line in table:
            yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        yield ""
        if self.against == "oracle":
            if self.traced:
                yield f"{self.traced} intermediate tensors equal the oracle bit for bit"
        else:
            for runtime in self.runtimes:
                rows = [row for row in self.differences if row.runtime == runtime]
                differing, floor = sum(row.differing for row in rows), sum(row.floor or 0 for row in rows)
                rule = f"{FLOOR_FACTOR} x floor"
                if self.allowed(runtime) > FLOOR_FACTOR * floor:
                    rule = "the floor and three standard deviations of chance"
                yield (
                    f"{runtime}: {differing} of {sum(row.pixels for row in rows)} pixels differ in class; "
                    f"float32 and float64 differ in {floor}, {self.allowed(runtime)} are allowed ({rule})"
                )
        yield from self.notes
        yield from (f"problem: {problem}" for problem in self.problems)
        yield "PASSED" if self.passed else "FAILED"

    @staticmethod
    def _row(row: Difference) -> tuple[str, ...]:
        floor = "" if row.floor is None else f"{100 * (1 - row.floor / row.pixels):.4f} %"
        agreement = f"{100 * (1 - row.differing / row.pixels):.4f} %"
        if row.equal:
            agreement = "bit for bit"
        numbers = ("", "") if math.isnan(row.largest) else (f"{row.largest:.2e}", f"{row.mean:.2e}")
        return row.runtime, row.image, agreement, floor, *numbers


def allowed_pixels(floor: int, cell: int) -> int:
    """Pixels that may differ in class if `floor` do between float32 and float64, `cell` at a time."""
    cells = floor / cell
    return math.floor(cell * max(FLOOR_FACTOR * cells, cells + 3 * math.sqrt(2 * cells) + 3))
