"""Random valid networks of the kind that the engine runs: maps that are whole multiples of a common grid."""

from __future__ import annotations

import numpy as np

from sparse_icnet.network.graph import (
    Add,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
)

from .values import pick

Padding = tuple[int, int, int, int]


def random_graph(rng: np.random.Generator) -> Graph:
    """Up to eight steps from an image to probabilities or classes; any window, dilation, stride, quantizer, channels."""
    return _Drawn(rng).graph()


class _Drawn:
    """Operations so far.  A tensor is (name, channels, phases): its map is `phases` times the grid.

    Most tensors of `codes` hold codes, the others real values.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.grid: Size = (pick(rng, (1, 2, 3, 4, 5, 7, 8)), pick(rng, (1, 3, 4, 7, 8, 15, 16, 17, 24)))
        phases = pick(rng, (1, 2, 4, 4, 8))
        while self.grid[1] * phases < 16:
            phases *= 2
        self.ops: list[Op] = []
        self.codes: list[tuple[str, int, int]] = []
        self.real: set[str] = set()
        image = self.add(Input("image", (3, self.grid[0] * phases, self.grid[1] * phases)))
        if rng.random() < 0.1:
            self.leave(image, 3, phases)
        if not self.codes or rng.random() < 0.5:
            self.quantize(image, 3, phases, 0.02)

    def leave(self, name: str, channels: int, phases: int) -> None:
        """A tensor without a quantizer behind it."""
        self.real.add(name)
        self.codes.append((name, channels, phases))

    def add(self, op: Op) -> str:
        self.ops.append(op)
        return op.name

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def size(self, phases: int) -> Size:
        return self.grid[0] * phases, self.grid[1] * phases

    def quantize(self, source: str, channels: int, phases: int, scale: float | None = None) -> None:
        """Any kind of quantizer; every range of 8 bits that starts at 0 or -128 is one that all formats hold."""
        rng = self.rng
        if scale is None and rng.random() < 0.15:
            self.leave(source, channels, phases)
            return
        low = pick(rng, (0, 0, 0, -128))
        zero = low if rng.random() < 0.5 else low + int(rng.integers(256))
        quantizer = Quantizer(scale or float(rng.uniform(0.01, 0.1)), zero, low, low + 255)
        self.codes.append((self.add(Quantize(self.name("codes"), source, quantizer)), channels, phases))

    def convolution(
        self, source: str, inputs: int, outputs: int, kernel: Size, stride: int, dilation: Size
    ) -> str:
        rng = self.rng
        shape = (outputs, inputs, *kernel)
        density = pick(rng, (0.0, 0.1, 0.4, 1.0, 1.0))
        weight = pick(
            rng, (rng.integers(-128, 128, shape), rng.integers(-63, 64, shape), np.full(shape, 127))
        )
        weight = weight * (rng.random(shape) < density)
        padding = self.padding(kernel, stride, dilation)
        if source in self.real or rng.random() < 0.15:
            real = (weight * rng.uniform(0.2, 1, shape) / (50 * np.sqrt(weight[0].size))).astype(np.float32)
            bias = rng.normal(0, 0.3, outputs).astype(np.float32)
            window = ((stride, stride), dilation, padding)
            return self.add(FloatConvolution(self.name("float"), source, real, bias, *window))
        weight = weight.astype(np.int8)
        scale = rng.uniform(-1.4, 1.4, outputs) / (50 * np.sqrt(inputs * kernel[0] * kernel[1]))
        scale = np.where(np.abs(scale) < 1e-6, 1e-3, scale).astype(np.float32)
        bias = rng.normal(0, 0.3, outputs).astype(np.float32)
        return self.add(
            Convolution(
                self.name("convolution"),
                source,
                weight,
                scale,
                bias,
                (stride, stride),
                dilation,
                padding,
            )
        )

    def padding(self, kernel: Size, stride: int, dilation: Size) -> Padding:
        """One that makes the output a `stride`-th of the input, split in any way between both ends."""
        ends = []
        for k, d in zip(kernel, dilation, strict=True):
            total = int(self.rng.integers(max(d * (k - 1) + 1 - stride, 0), d * (k - 1) + 1))
            first = pick(self.rng, (total // 2, int(self.rng.integers(total + 1))))
            ends.append((first, total - first))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]

    def step(self) -> None:
        rng = self.rng
        source, channels, phases = self.codes[-1] if rng.random() < 0.8 else pick(rng, self.codes)
        stride = pick(rng, [s for s in (1, 1, 1, 2, 4) if phases % s == 0])
        kernel = pick(rng, ((1, 1), (1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (7, 1)))
        match pick(rng, ("convolution",) * 5 + ("residual", "residual", "pool", "mean", "resize")):
            case "convolution" | "residual" as kind:
                dilation = pick(rng, ((1, 1), (1, 1), (2, 2), (4, 4), (1, 2), (3, 1)))
                outputs = int(rng.integers(1, 21))
                partners = [c for c in self.codes if c[2] * stride == phases]
                if kind == "residual" and partners:
                    other, outputs, _ = pick(rng, partners)
                x = self.convolution(source, channels, outputs, kernel, stride, dilation)
                if rng.random() < 0.3:
                    self.quantize(x, outputs, phases // stride)
                    x = self.codes.pop()[0]
                if kind == "residual" and partners:
                    x = self.add(Add(self.name("sum"), *((x, other) if rng.random() < 0.5 else (other, x))))
                if rng.random() < 0.7:
                    x = self.add(Relu(self.name("relu"), x))
                self.quantize(x, outputs, phases // stride)
            case "pool":
                padding = self.padding(kernel, stride, (1, 1))
                if rng.random() < 0.5:  # the only one that may have its zero point anywhere
                    kernel, padding = (stride, stride), (0, 0, 0, 0)
                pool = MaxPool(self.name("pool"), source, kernel, (stride, stride), padding)
                if source in self.real:
                    self.real.add(pool.name)
                self.codes.append((self.add(pool), channels, phases // stride))
            case "mean":
                bins = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
                mean = self.add(AveragePool(self.name("mean"), source, bins))
                up = self.add(Resize(self.name("up"), mean, self.size(phases)))
                self.quantize(self.add(Add(self.name("sum"), source, up)), channels, phases)
            case "resize":
                wanted = pick(rng, [p for p in (1, 2, 4, 8) if p != phases and self.size(p)[1] <= 200])
                op = Resize(self.name("resize"), source, self.size(wanted))
                if source in self.real:
                    self.real.add(op.name)
                self.codes.append((self.add(op), channels, wanted))

    def graph(self) -> Graph:
        rng = self.rng
        for _ in range(int(rng.integers(1, 9))):
            self.step()
        source, channels, phases = self.codes[-1]
        x = self.convolution(source, channels, int(rng.integers(2, 20)), (1, 1), 1, (1, 1))
        size = self.size(phases * pick(rng, (1, 2, 3, 4)))
        ending = pick(
            rng, ("s", "s", "rs", "sr", "a", "ra", "ar", "bs", "ba", "", "r", "b", "sa", "rsa", "q", "sq")
        )
        for letter in ending:
            match letter:
                case "r":
                    x = self.add(Resize(self.name("enlarged"), x, size))
                case "b":
                    x = self.add(Bilinear(self.name("smooth"), x, size, bool(rng.random() < 0.5)))
                case "q":
                    quantizer = Quantizer(float(rng.uniform(0.001, 0.1)), int(rng.integers(256)))
                    x = self.add(Quantize(self.name("coarse"), x, quantizer))
                case "s":
                    x = self.add(Softmax(self.name("probabilities"), x))
                case "a":
                    x = self.add(Argmax(self.name("classes"), x))
        return Graph(tuple(self.ops), x)
