"""The operators, one folder each: `params` (what its kernel reads), `plan` (what a program knows of it), `pack` (weights
and tables as the kernel reads them), `kernel` (the loop, which alone needs Numba, with what it calls).

KERNELS is every kernel there is: the record that it reads, and where it is.  Each is compiled by itself, when a program
first has a step of it, and called by its address.  Does not import Numba.
"""

from __future__ import annotations

from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.elementwise.params import CombineParams, ExpandParams, ShiftParams
from sparse_icnet.operators.float_convolution.params import FloatConvolutionParams
from sparse_icnet.operators.input.params import BlobParams, ImageParams, RealBlobParams, RealImageParams
from sparse_icnet.operators.interpolation.params import BilinearSoftmaxParams, SmoothClassesParams
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams, SoftmaxParams, UpsampleParams
from sparse_icnet.operators.pooling.params import (
    AveragePoolParams,
    MaxPoolParams,
    PyramidParams,
    RealAveragePoolParams,
    RealMaxPoolParams,
)
from sparse_icnet.operators.winograd.params import Elements, WinogradParams

# Those that share much stand beside one another, and what takes long to compile at the ends: see `run/compiling.py`.
KERNELS: dict[type, str] = {
    ConvolutionParams: "convolution.kernel:convolution",
    WinogradParams: "winograd.kernel:winograd",
    Elements: "winograd.kernel:winograd_input",
    ShiftParams: "elementwise.kernel:shift",
    MaxPoolParams: "pooling.kernel:max_pool",
    PyramidParams: "pooling.kernel:pyramid",
    CombineParams: "elementwise.kernel:combine",
    ImageParams: "input.kernel:quantize_image",
    BlobParams: "input.kernel:quantize_blob",
    SoftmaxParams: "output.kernel:softmax",
    ArgmaxParams: "output.kernel:argmax",
    UpsampleParams: "output.kernel:upsample",
    LogitsParams: "output.kernel:logits",
    SmoothClassesParams: "interpolation.kernel:smooth_classes",
    AveragePoolParams: "pooling.kernel:average_pool",
    ExpandParams: "elementwise.kernel:expand",
    BilinearSoftmaxParams: "interpolation.bilinear_kernel:bilinear_softmax",
    FloatConvolutionParams: "float_convolution.kernel:float_convolution",
    RealMaxPoolParams: "pooling.real_kernel:real_max_pool",
    RealAveragePoolParams: "pooling.real_kernel:real_average_pool",
    RealImageParams: "input.real_kernel:real_image",
    RealBlobParams: "input.real_kernel:real_blob",
}


# Those of the bundled models, whatever they are asked for, on every CPU: `sparse_icnet.run.machine_code.warm_up`.
USUAL_KERNELS = frozenset(
    {
        ConvolutionParams,
        WinogradParams,
        Elements,
        ShiftParams,
        MaxPoolParams,
        PyramidParams,
        CombineParams,
        ImageParams,
        BlobParams,
        SoftmaxParams,
        ArgmaxParams,
        UpsampleParams,
        LogitsParams,
        SmoothClassesParams,
    }
)


def kernel_name(record: type) -> str:
    """The name of the function that reads `record`."""
    return KERNELS[record].partition(":")[2]
