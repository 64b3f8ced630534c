"""The network as a user sees it: load once, then segment pictures or run blobs.

>>> import sparse_icnet
>>> from sparse_icnet.bundled import SAMPLE_IMAGE
>>> net = sparse_icnet.load(size=(192, 256), threads=1)
>>> net
Model(size=(192, 256), classes=12, threads=1)
>>> net.segment(SAMPLE_IMAGE).shape                # as large as the picture
(427, 640)
>>> net.probabilities(SAMPLE_IMAGE).shape          # as large as the network's output
(12, 192, 256)
>>> [result.size for result in net.predict([SAMPLE_IMAGE, SAMPLE_IMAGE])]
[(427, 640), (427, 640)]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from sparse_icnet import bundled
from sparse_icnet.arguments import checked_threads
from sparse_icnet.image import ImageLike, enlarge, fit, fitted, name_of, to_rgb
from sparse_icnet.processes import Once

# What few processes need is imported where it is used: a start with a kept plan is a third of a second.
if TYPE_CHECKING:
    from sparse_icnet.activations import Activation, Activations
    from sparse_icnet.info import ModelInfo, ModelMeta, Profile
    from sparse_icnet.network.graph import Graph, Size
    from sparse_icnet.plan.program import Plan
    from sparse_icnet.plan.steps import Runnable
    from sparse_icnet.result import Result
    from sparse_icnet.run.session import Session
    from sparse_icnet.run.tracing import Recording
    from sparse_icnet.study.timing import Analysis

Picture = TypeVar("Picture", bound=ImageLike)  # of a list: list[Path] is one of images, too


def _activations(graph: Once[Graph], threads: int | None) -> Activations:
    from sparse_icnet.activations import Activations

    return Activations(graph.get(), threads)


class Model:
    """A network ready to run; safe to call from several Python threads at once.

    threads      of one inference; None: one for each core this process may use
    size         (height, width) of its input
    output_size  (height, width) of its output, which may differ: many exports leave out the last enlargement
    class_names  of its classes, in order
    path         the file that it was loaded from; None for a graph made in memory
    output_name  of the file's outputs, where one was chosen by name
    bgr          whether the file was loaded as one that expects blue, green, red
    stated_size  (height, width) as that file states it; None where it leaves them free
    asked_size   (height, width) as they were asked for; None: as the file says

    A graph that the engine cannot run is refused when the model is made: GraphError or PlanError (both ValueErrors).
    """

    path: Path | None = None
    output_name: str | None = None
    bgr: bool = False
    stated_size: Size | None = None
    asked_size: Size | None = None
    known_digest: str | None = None

    def __init__(
        self, graph: Graph, threads: int | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        from sparse_icnet.network.class_names import class_names_of
        from sparse_icnet.network.constants import check_constants
        from sparse_icnet.network.graph import GraphError
        from sparse_icnet.plan import plan_for
        from sparse_icnet.processes import default_threads

        if (channels := graph.input.shape[0]) != 3:
            raise GraphError(f"input {graph.input.name!r}: expected 3 channels (RGB), found {channels}")
        check_constants(graph)
        threads = checked_threads(threads)
        names = class_names_of(graph, class_names)
        plan = plan_for(graph, threads or default_threads())
        self._begin(plan, Once.of(graph), Once.of(plan), threads, names)
        self.stated_size = None if graph.size_is_free else self.size

    @classmethod
    def of_kept(
        cls, kept: Runnable, graph: Once[Graph], plan: Once[Plan], threads: int | None, names: tuple[str, ...]
    ) -> Model:
        """A model that runs a plan of an earlier process; `graph` and `plan` are made if anybody asks for them."""
        model = cls.__new__(cls)
        model._begin(kept, graph, plan, threads, names)
        return model

    def _begin(
        self,
        runs: Runnable,
        graph: Once[Graph],
        plan: Once[Plan],
        threads: int | None,
        names: tuple[str, ...],
    ) -> None:
        from sparse_icnet.run.session import Session

        self._graph, self._plan, self._runs = graph, plan, runs
        self.threads, self.class_names = threads, names
        self.size: Size = runs.input_shape[1:]
        self.output_size: Size = runs.returned_shape[1:]
        self._session = Once(partial(Session, runs))
        self._activations = Once(partial(_activations, graph, threads))

    @property
    def graph(self) -> Graph:
        """The network as loaded; read from its file when first asked for, where the plan was kept."""
        return self._graph.get()

    @property
    def plan(self) -> Plan:
        """What the engine makes of the network; made anew when first asked for, where it was kept."""
        return self._plan.get()

    @property
    def digest(self) -> str:
        """What tells the network apart: `sparse_icnet.network.digest`."""
        if self.known_digest is None:
            from sparse_icnet.network.digest import digest

            self.known_digest = digest(self.graph)
        return self.known_digest

    def __repr__(self) -> str:
        return f"Model(size={self.size}, classes={len(self.class_names)}, threads={self.threads})"

    def _repr_html_(self) -> str:
        """A table of what the model is, for notebooks."""
        from sparse_icnet.info import html_table

        return html_table(self.info(), self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by path and options where it was loaded from a file, which must hold the same network then as now;
        a bundled model by its name; a graph made in memory by content."""
        if self.path is None:
            return Model, (self.graph, self.threads, self.class_names)
        from sparse_icnet.loading import reloaded

        path = bundled.name_of(self.path) or str(self.path)
        asked = (self.asked_size, self.threads, self.class_names, self.digest, self.output_name, self.bgr)
        return reloaded, (path, *asked)

    @property
    def meta(self) -> ModelMeta:
        """Input size, normalization, classes, accuracy and licence, as far as the file states them."""
        from sparse_icnet.info import ModelMeta

        return ModelMeta.of(self)

    def info(self) -> ModelInfo:
        """What the model is made of, in figures, layer by layer: what `sparse-icnet info` prints."""
        from sparse_icnet.info import model_info

        return model_info(self.graph, self.plan, self.class_names)

    def profile(self, repeats: int = 20, image: ImageLike | None = None) -> Profile:
        """Where the time of image -> class map goes: of each step median and quartiles of `repeats` inferences.

        image  as for `segment`; None: the bundled photo
        """
        from sparse_icnet.info import profile

        return profile(self, repeats, image)

    def analyze(
        self, other: Model | None = None, image: ImageLike | None = None, rounds: int = 15
    ) -> Analysis:
        """`profile` with what zeros buy and the share of the CPU's peak; of two models in turns: `study.analyze`."""
        from sparse_icnet.study.analyze import analyze

        return analyze(self, other, image, rounds)

    def trace(
        self, image: ImageLike, file: str | PathLike[str] | None = None, smooth: bool = True
    ) -> Recording:
        """One inference, every task of every thread, for Perfetto or chrome://tracing: `study.trace`."""
        from sparse_icnet.study.trace import trace

        return trace(self, image, file, smooth)

    def activations(self, image: ImageLike, names: Sequence[str] | None = None) -> dict[str, Activation]:
        """Tensors of the network for one image: name -> Activation, with the codes and their quantizer or real values.

        image  as for `segment`
        names  of operations of `graph`; None: every quantized tensor

        Exactly what the equations of `sparse_icnet.network.operations` define.  The first call plans the network anew so
        that every tensor keeps memory of its own.  Raises ValueError for a name that the network does not have.

        >>> import sparse_icnet
        >>> from sparse_icnet.bundled import SAMPLE_IMAGE
        >>> net = sparse_icnet.load(size=(96, 96), threads=1)
        >>> codes = net.activations(SAMPLE_IMAGE, ["conv1_2/codes"])["conv1_2/codes"]
        >>> codes.data.shape, codes.data.dtype, codes.quantizer.levels
        ((32, 24, 24), dtype('int16'), 256)
        >>> net.activations(SAMPLE_IMAGE, ["conv1_2/code"])
        Traceback (most recent call last):
        ValueError: 'conv1_2/code' is no tensor of this network, did you mean ...?
        """
        from sparse_icnet.activations import checked_names
        from sparse_icnet.blobs import graph_input

        wanted = checked_names(self.graph, names)
        pixels, _ = fitted(image, self.size)
        return self._activations.get().of(pixels, graph_input(self.graph, pixels), wanted)

    @property
    def session(self) -> Session:
        """The engine that runs `plan`; made, and its machine code loaded or compiled, when first asked for."""
        return self._session.get()

    def beside(self, threads: int | None = None) -> Model:
        """The same model and weights for another Python thread: its inferences, of `threads`, wait for none of these."""
        from sparse_icnet.run.session import session_beside

        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)  # `copy` would load the file anew, as `__reduce__` says
        twin.threads = checked_threads(threads) or self.threads
        twin._session = Once(partial(session_beside, self._runs, threads))
        return twin

    @overload
    def predict(self, image: ImageLike, smooth: bool = True) -> Result: ...
    @overload
    def predict(self, image: list[Picture] | tuple[Picture, ...], smooth: bool = True) -> list[Result]: ...
    def predict(
        self, image: ImageLike | list[Any] | tuple[Any, ...], smooth: bool = True
    ) -> Result | list[Result]:
        """Classes, shares, confidence and pictures of an image; a list of images gives a list.

        image   as for `segment`
        smooth  as for `segment`

        The network runs once; confidence and probabilities are computed from its logits when they are asked for.
        """
        if isinstance(image, list | tuple):
            return [self._predict(one, smooth, name_of(one, i)) for i, one in enumerate(image)]
        return self._predict(image, smooth, name_of(image))

    def _predict(self, image: ImageLike, smooth: bool, name: str) -> Result:
        from sparse_icnet.network.bilinear import bilinear
        from sparse_icnet.result import Result

        picture = to_rgb(image, name)
        pixels, size = fit(picture, self.size), (picture.height, picture.width)
        logits, class_map = self.session.scores_of_image(pixels, size if smooth else None)
        upsampling = self._runs.upsampling
        if not smooth:
            class_map = enlarge(class_map, self.output_size, size)
            if upsampling is not None:
                logits = bilinear(logits, upsampling.size, upsampling.align_corners)
        align_corners = upsampling is not None and upsampling.align_corners
        return Result(
            picture, class_map, self.class_names, logits, smooth, self.output_size, name, align_corners
        )

    @overload
    def segment(self, image: ImageLike, smooth: bool = True) -> NDArray[np.uint8]: ...
    @overload
    def segment(
        self, image: list[Picture] | tuple[Picture, ...], smooth: bool = True
    ) -> list[NDArray[np.uint8]]: ...
    def segment(
        self, image: ImageLike | list[Any] | tuple[Any, ...], smooth: bool = True
    ) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Class of every pixel: uint8 (H, W), H and W those of the image itself (upright, as its EXIF says).

        image   whatever `sparse_icnet.image.to_rgb` takes (path, bytes, binary file object, PIL image, uint8 array),
                or a list of these, which gives a list
        smooth  interpolate the scores of the classes from the grid on which the network computes them (in ICNet an eighth
                of its height and width) straight to every pixel of the image, equation (Q11) of
                `sparse_icnet.network.operations`: smooth edges, and more pixels right.  False: the grid's classes as they
                are, in ICNet blocks of 8 x 8 pixels of the network, brought to the image by nearest neighbour, as the model
                card says.  Every network that the engine runs has such scores, also one whose output is a class map

        The image is stretched to the network size (bilinear).
        """
        if isinstance(image, list | tuple):
            return [self.segment(one, smooth) for one in image]
        pixels, size = fitted(image, self.size)
        return self._class_map(pixels, size, smooth)

    def segment_at_network_size(self, image: ImageLike, smooth: bool = True) -> NDArray[np.uint8]:
        """Class map uint8 of `size`, as the metrics want it; `smooth` as for `segment`."""
        return self._class_map(fitted(image, self.size)[0], self.size, smooth)

    def _class_map(self, pixels: NDArray[np.uint8], size: Size, smooth: bool) -> NDArray[np.uint8]:
        if smooth:
            return self.session.smooth_class_map_of_image(pixels, size)
        return enlarge(self.session.class_map_of_image(pixels), self.output_size, size)

    @overload
    def probabilities(self, image: ImageLike) -> NDArray[np.float32]: ...
    @overload
    def probabilities(self, image: list[Picture] | tuple[Picture, ...]) -> list[NDArray[np.float32]]: ...
    def probabilities(
        self, image: ImageLike | list[Any] | tuple[Any, ...]
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Probabilities float32 (classes, H, W) of an image, H and W those of the output (`output_size`).

        image  as for `segment`

        A network that ends in an argmax gives the softmax of the scores that the argmax reads.
        """
        if isinstance(image, list | tuple):
            return [self.probabilities(one) for one in image]
        return self.session.probabilities_of_image(fitted(image, self.size)[0])

    def blob(self, image: ImageLike) -> NDArray[Any]:
        """The network input for an image, as the file takes it: float32 (1, 3, H, W), stretched to `size` and normalized,
        unless the file declares another type, order of axes or size of pictures (`graph.faces`)."""
        from sparse_icnet.blobs import file_input

        pixels, _ = fitted(image, self.graph.faces.input.picture or self.size)
        blob = file_input(self.graph, pixels)
        return blob[None] if "N" in self.graph.faces.input.axes else blob

    def __call__(self, blob: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Run normalized input: float32 (N, 3, H, W) -> what the network returns, for each blob.

        Probabilities or, of a network without softmax, logits, float32 (N, classes, H', W'); where the network ends in an
        argmax, its class map, uint8 (N, 1, H', W').  H' and W' are those of `output_size`.  A file that declares other
        types and axes takes and gives these: bytes (N, H, W, 3), class numbers int64 (N, H', W') and so on.

        blob  H and W those of `size`; as `blob()` makes it: (RGB / 255 - mean) / deviation.
              Infinities count as the nearest value the input quantizer knows, NaN as its lowest.
        out   C-contiguous array for the result, not overlapping `blob`; also returned

        Raises TypeError or ValueError for a blob or array of another type or shape.
        """
        from sparse_icnet.blobs import results

        return results(self.graph, self.session, blob, out)
