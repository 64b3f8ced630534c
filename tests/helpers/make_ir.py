"""Writes OpenVINO IR by hand, layer by layer, for tests of the reader: right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

ELEMENT_TYPES = {
    "float32": "f32",
    "float16": "f16",
    "int8": "i8",
    "uint8": "u8",
    "int32": "i32",
    "int64": "i64",
}
PRECISIONS = {"f32": "FP32", "f16": "FP16", "i8": "I8", "u8": "U8", "i32": "I32", "i64": "I64"}

Port = tuple[int, int]  # layer, port


class Ir:
    """Layers and edges so far; `version` 7 puts constants into <blobs> and leaves out opsets."""

    def __init__(self, version: int = 11) -> None:
        self.version = version
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.binary = b""
        self.dims: dict[Port, tuple[int, ...]] = {}
        self.extra = ""

    def layer(
        self,
        kind: str,
        inputs: Sequence[Port] = (),
        dims: Sequence[tuple[int, ...]] = (),
        data: Mapping[str, object] | None = None,
        opset: str = "opset1",
        name: str | None = None,
        blobs: str = "",
        precision: str = "FP32",
    ) -> Port:
        """Add a layer with outputs of `dims`; its first output."""
        number = len(self.layers)
        attributes = "".join(f" {key}={quoteattr(str(value))}" for key, value in (data or {}).items())
        name = name or f"{kind}_{number}"
        text = f'<layer id="{number}" name={quoteattr(name)} type={quoteattr(kind)}'
        text += f' precision="{precision}">' if self.version < 10 else f" version={quoteattr(opset)}>"
        text += f"<data{attributes}/>" if attributes else ""
        if inputs:
            text += (
                f"<input>{''.join(_port(i, self.dims[source]) for i, source in enumerate(inputs))}</input>"
            )
        if dims:
            text += (
                f"<output>{''.join(_port(len(inputs) + i, shape) for i, shape in enumerate(dims))}</output>"
            )
        self.layers.append(text + blobs + "</layer>\n")
        for port, (source, source_port) in enumerate(inputs):
            start, end = (
                f'from-layer="{source}" from-port="{source_port}"',
                f'to-layer="{number}" to-port="{port}"',
            )
            self.edges.append(f"<edge {start} {end}/>\n")
        for i, shape in enumerate(dims):
            self.dims[number, len(inputs) + i] = shape
        return (number, len(inputs))

    def constant(self, value: object, dtype: str = "float32", name: str | None = None) -> Port:
        array = np.asarray(value, dtype)
        offset, size = self.append(array)
        element_type = ELEMENT_TYPES[dtype]
        if self.version < 10:
            blobs = f'<blobs><custom offset="{offset}" size="{size}"/></blobs>'
            return self.layer(
                "Const", (), [array.shape], name=name, blobs=blobs, precision=PRECISIONS[element_type]
            )
        shape = ",".join(map(str, array.shape))
        data = {"element_type": element_type, "shape": shape, "offset": offset, "size": size}
        return self.layer("Const", (), [array.shape], data, name=name)

    def append(self, array: NDArray) -> tuple[int, int]:
        """(offset, size) of the array in the .bin."""
        offset = len(self.binary)
        self.binary += array.tobytes()
        return offset, array.nbytes

    def parameter(self, shape: tuple[int, ...] = (1, 3, 8, 8), name: str = "image") -> Port:
        if self.version < 10:
            return self.layer("Input", (), [shape], name=name)
        return self.layer(
            "Parameter", (), [shape], {"shape": ",".join(map(str, shape)), "element_type": "f32"}, name=name
        )

    def fake_quantize(
        self, x: Port, low: object, high: object, levels: object = 256, output=None, name=None
    ) -> Port:
        """FakeQuantize with input range low..high and output range `output`, the same if None."""
        ranges = [self.constant(value) for value in (low, high, *(output or (low, high)))]
        return self.layer("FakeQuantize", (x, *ranges), [self.dims[x]], {"levels": levels}, name=name)

    def weights(self, codes: NDArray, scale: NDArray, form: str = "int8") -> Port:
        """Weights codes * scale per output channel: "int8" or "fake_quantize" (narrow range, 255 levels)."""
        scale = np.asarray(scale, np.float32).reshape(-1, 1, 1, 1)
        if form == "int8":
            x = self.layer(
                "Convert", [self.constant(codes, "int8")], [codes.shape], {"destination_type": "f32"}
            )
            return self.layer("Multiply", (x, self.constant(scale)), [codes.shape])
        x = self.constant(codes.astype(np.float32) * scale)
        return self.fake_quantize(x, -127 * scale, 127 * scale, 255)

    def convolution(
        self, x: Port, weights: Port, stride: int = 1, padding: int = 0, name: str | None = None
    ) -> Port:
        _, _, height, width = self.dims[x]
        outputs, _, kernel_height, kernel_width = self.dims[weights]
        rows = (height + 2 * padding - kernel_height) // stride + 1
        columns = (width + 2 * padding - kernel_width) // stride + 1
        pads = f"{padding},{padding}"
        data = {"strides": f"{stride},{stride}", "dilations": "1,1", "pads_begin": pads, "pads_end": pads}
        return self.layer("Convolution", (x, weights), [(1, outputs, rows, columns)], data, name=name)

    def binary_operation(self, kind: str, x: Port, y: Port, name: str | None = None) -> Port:
        if self.version < 10:
            operation = {"Add": "sum", "Multiply": "mul"}[kind]
            return self.layer("Eltwise", (x, y), [self.dims[x]], {"operation": operation}, name=name)
        return self.layer(kind, (x, y), [self.dims[x]], {"auto_broadcast": "numpy"}, name=name)

    def unary(self, kind: str, x: Port, name: str | None = None, **data: object) -> Port:
        return self.layer(kind, [x], [self.dims[x]], data, name=name)

    def result(self, x: Port) -> Port:
        return self.layer("Result", [x]) if self.version >= 10 else x

    def text(self) -> str:
        layers, edges = "".join(self.layers), "".join(self.edges)
        return (
            f'<?xml version="1.0"?>\n<net name="test" version="{self.version}">\n'
            f"<layers>\n{layers}</layers>\n<edges>\n{edges}</edges>\n{self.extra}</net>\n"
        )

    def save(self, folder: Path, name: str = "m") -> Path:
        path = folder / f"{name}.xml"
        path.write_text(self.text(), encoding="utf-8")
        path.with_suffix(".bin").write_bytes(self.binary)
        return path


def _port(number: int, dims: tuple[int, ...]) -> str:
    return f'<port id="{number}" precision="FP32">{"".join(f"<dim>{size}</dim>" for size in dims)}</port>'


def codes(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.int8]:
    """Random weights within -127..127, every third one zero, both ends present."""
    array = np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)
    array.ravel()[::3] = 0
    array.ravel()[1:3] = (-127, 127)
    return array


def scales(count: int) -> NDArray[np.float32]:
    return np.linspace(0.001, 0.004, count, dtype=np.float32)


def bias(count: int) -> NDArray[np.float32]:
    return np.linspace(-0.5, 0.7, count, dtype=np.float32).reshape(1, count, 1, 1)


def small_network(version: int = 11, form: str = "int8") -> Ir:
    """image > codes > 3x3 convolution, bias, ReLU > codes > 1x1 convolution, bias > softmax."""
    ir = Ir(version)
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27, name="image_codes")
    x = ir.convolution(x, ir.weights(codes((4, 3, 3, 3)), scales(4), form), 2, 1, name="first")
    x = ir.binary_operation("Add", x, ir.constant(bias(4)), name="first/bias")
    x = ir.fake_quantize(ir.unary("ReLU", x, name="relu"), 0.0, 2.55, name="relu_codes")
    x = ir.convolution(x, ir.weights(codes((5, 4, 1, 1), 1), scales(5), form), name="second")
    x = ir.binary_operation("Add", x, ir.constant(bias(5)), name="second/bias")
    ir.result(ir.unary("SoftMax", x, name="probabilities", axis=1))
    return ir
