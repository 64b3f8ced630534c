"""All that a page shows, as one tree of frozen dataclasses; nothing of how it looks.

Times are seconds, sizes bytes, shares 0 to 1; a product is one multiply-accumulate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sparse_icnet.network.graph import Shape, Size
from sparse_icnet.study.report.drawing import Drawing
from sparse_icnet.study.timing import Spread


@dataclass(frozen=True, slots=True)
class Picture:
    """The zeros of a layer as a PNG.

    uri       data:image/png
    blocks    a pixel is a 4 x 4 block, the more opaque the fewer of its weights are zero; else a weight
    sideways  output channels go across
    """

    uri: str
    width: int
    height: int
    blocks: bool
    sideways: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often which codes, or real values, occur.

    low, high   the first and the last
    counts      of bins of one width, but for the outermost; zero_bin: the one that holds the real value 0 alone
    zero_share  of all values
    """

    low: float
    high: float
    counts: tuple[int, ...]
    zero_bin: int
    zero_share: float

    def others(self) -> Iterator[int]:
        """The counts without that of zero."""
        return (count for index, count in enumerate(self.counts) if index != self.zero_bin)


@dataclass(frozen=True, slots=True)
class Form:
    """A stored form of a layer's weights: what it is called, how many bytes it takes, and what else is worth saying."""

    name: str
    bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of a layer within one inference.

    seconds     median; low, high: quartiles
    share       of the inference
    with_layers other convolutions that are computed in the same step
    rate        products executed a second; peak_share: of what the dot product can give
    dense       the same layer without zeros, median; saved: by its zeros; saved_clear: whether that is more than noise
    """

    seconds: float
    low: float
    high: float
    share: float
    with_layers: tuple[str, ...]
    rate: float
    peak_share: float | None
    dense: float | None
    saved: float | None
    saved_clear: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution.

    role          in the paper, "" of an unknown network
    macs_written  products as the file has it; dense_macs: after the rewrites; macs: executed
    dtype         of its weights: "int8", or "float32" where the file leaves the layer so
    empty         share of the 4 x 4 blocks that hold nothing but zeros
    before, after pictures of its zeros before and behind gathering, with the share of empty blocks
    rewrites      what each rewrite did to it
    activation    name of the tensor whose codes `activations` counts
    """

    index: int
    name: str
    role: str
    weight_shape: tuple[int, int, int, int]
    stride: Size
    dilation: Size
    output_shape: Shape
    dtype: str
    weights: int
    zeros: float
    empty: float
    kernel: str
    reason: str
    filtered: bool
    macs_written: int
    dense_macs: int
    macs: int
    weight_bytes: int
    forms: tuple[Form, ...]
    rewrites: tuple[str, ...]
    before: Picture | None
    after: Picture | None
    empty_before: float
    empty_after: float
    weight_histogram: Histogram
    activation: str
    activations: Histogram | None
    time: LayerTime | None

    @property
    def spoken(self) -> str:
        """One line that says what matters."""
        outputs, inputs, height, width = self.weight_shape
        time = f", {100 * self.time.share:.1f} % of the time" if self.time else ""
        return (
            f"{self.name}: {outputs} x {inputs} x {height} x {width}, {100 * self.zeros:.1f} % zeros, "
            f"kernel {self.kernel}{time}"
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the waterfall; `kind` "total" for a level, else what changes it by `change` products to `macs`."""

    name: str
    kind: str
    macs: int
    change: int
    text: str


@dataclass(frozen=True, slots=True)
class Kind:
    """All layers of one kind of kernel, or all steps that are no convolutions but of one kind.

    saved  seconds that their zeros save, median; saved_clear: whether that is more than noise.  None: no dense layer
    """

    name: str
    layers: int
    seconds: float
    share: float
    saved: float | None
    saved_clear: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A layer in the roofline: products a byte, products a second."""

    layer: int
    intensity: float
    rate: float
    filtered: bool
    text: str


@dataclass(frozen=True, slots=True)
class Roofline:
    """What the machine can give, and what layers get (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009).

    peak           products a second of the dot product on all threads; peak_of_pairs: of int16, as filtering has them
    bandwidth      bytes a second that NumPy copies on all threads, read and written; buffer: of so many bytes
    """

    peak: float
    peak_of_pairs: float | None
    bandwidth: float
    buffer: int
    points: tuple[Point, ...]

    @property
    def ridge(self) -> float:
        """Products a byte above which the dot product is the bound."""
        return self.peak / self.bandwidth


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model beside others.

    shown     the one that the page is about
    skipped   share of the products whose weight is zero; macs: executed
    accuracy  what the file states, name -> share
    seconds   image -> smooth class map; None: not measured
    """

    name: str
    shown: bool
    zeros: float
    skipped: float
    macs: int
    accuracy: tuple[tuple[str, float], ...]
    seconds: Spread | None


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture with its smooth map and confidence; shares: (class, share, colour), the largest first."""

    name: str
    size: Size
    picture: str
    overlay: str
    confidence: str
    mean_confidence: float
    shares: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The page.

    machine   CPU, class of CPUs, threads, as sentences are made of it
    icnet     whether the network is ICNet by its names
    gathered  whether the file's channels are gathered already: `Layer.before` has them in a random order then
    left_out  convolutions that are too many to be shown
    disturbed why times are to be taken with care; notes: what could not be measured, and why
    """

    model: str
    title: str
    licence: str
    description: str
    version: str
    machine: tuple[tuple[str, str], ...]
    size: Size
    class_names: tuple[str, ...]
    weights: int
    zeros: float
    skipped: float
    icnet: bool
    gathered: bool
    left_out: int
    seconds: Spread | None
    layers: tuple[Layer, ...]
    drawings: tuple[Drawing, ...]
    waterfall: tuple[Bar, ...]
    kinds: tuple[Kind, ...]
    roofline: Roofline | None
    models: tuple[ModelRow, ...]
    frame: Frame
    disturbed: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)
