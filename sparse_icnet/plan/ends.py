"""What lies behind the logits of a graph, and the ends of a program for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_icnet.network.graph import Argmax, Bilinear, Graph, Op, Resize, Shape, Softmax
from sparse_icnet.operators.interpolation.pack import Stretch
from sparse_icnet.operators.interpolation.plan import BilinearSoftmaxStep, SmoothClassesStep
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.output.plan import ArgmaxStep, LogitsStep, SoftmaxStep, UpsampleStep
from sparse_icnet.operators.storage import Block, PlanError, SizeError, View
from sparse_icnet.plan.program import End

MOST_CLASSES = 256  # a class is a byte


@dataclass(frozen=True, slots=True)
class Ends:
    """The end of a graph: logits, [bilinear upsampling], [softmax or argmax], [nearest upsampling].

    logits        name of the operation that computes them; logits_shape: (C, h, w)
    upsampling    the bilinear one, if there is one
    output_shape  of the probabilities
    """

    logits: str
    logits_shape: Shape
    upsampling: Bilinear | None
    output_shape: Shape

    def output_steps(self, logits: View, threads: int) -> dict[End, Sequence[Operator]]:
        """The operators behind the logits, for every end of an inference."""
        shape = self.logits_shape
        if self.upsampling is None:
            probabilities = self._nearest(logits, threads)
            classes: list[Operator] = [ArgmaxStep(shape, logits)]
        else:
            stretch = Stretch.of(shape[1:], self.upsampling.size, self.upsampling.align_corners)
            probabilities = [BilinearSoftmaxStep(shape, logits, stretch)]
            classes = self._smooth(logits, stretch)
        return {
            End.PROBABILITIES: probabilities,
            End.CLASSES: classes,
            End.SMOOTH_CLASSES: self._smooth(logits, None),
            End.LOGITS: [LogitsStep(shape, logits)],
        }

    def _nearest(self, logits: View, threads: int) -> list[Operator]:
        channels, height, width = shape = self.logits_shape
        enlarged = self.output_shape[1] // height, self.output_shape[2] // width
        if (height * enlarged[0], width * enlarged[1]) != self.output_shape[1:]:
            raise SizeError(
                f"the output {self.output_shape[1:]} must be a whole multiple of the logits {shape[1:]}"
            )
        small = SoftmaxStep.block(channels, logits)
        return [
            SoftmaxStep(channels, logits, small),
            UpsampleStep(shape, enlarged, logits, small, threads),
        ]

    def _smooth(self, logits: View, stretch: Stretch | None) -> list[Operator]:
        """First the classes of the grid, then of the pixels between its points; the size comes with a call for None."""
        _, height, width = shape = self.logits_shape
        classes = Block("classes", height * width)
        return [
            ArgmaxStep(shape, logits, classes),
            SmoothClassesStep(shape, logits, classes, stretch),
        ]


def ends_of(graph: Graph) -> Ends:
    """The end of `graph`; PlanError for one that ends in anything else, or in more than MOST_CLASSES classes."""
    end: Op = graph[graph.output]
    resizes = 0
    while isinstance(end, Resize):
        end, resizes = graph[end.input], resizes + 1
    if resizes > 1:  # what equals a single one was merged before
        raise PlanError(f"output {graph.output!r}: its {resizes} resizes must equal a single nearest resize")
    upsampling = graph[end.input] if isinstance(end, Softmax | Argmax) else end
    bilinear = upsampling if isinstance(upsampling, Bilinear) else None
    logits = upsampling.name if bilinear is None else bilinear.input
    shape = graph.shape(logits)
    if shape[0] > MOST_CLASSES:
        raise PlanError(f"operation {end.name!r}: expected at most {MOST_CLASSES} classes, found {shape[0]}")
    if bilinear is not None and resizes:
        raise PlanError(
            f"output {graph.output!r}: expected no resize behind the bilinear one, {bilinear.name!r}"
        )
    _, height, width = graph.shape(graph.output)
    return Ends(logits, shape, bilinear, (shape[0], height, width))
