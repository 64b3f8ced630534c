"""What to do about operations that this engine does not compute: the end of a refusal."""

from __future__ import annotations

_ACTIVATION = "the engine knows ReLU alone: train and export the network with it"
_HEAD = "return the logits, their softmax or their argmax"
_TRANSPOSED = "enlarge by a resize and convolve behind it"
_DYNAMIC = "quantize with a calibration, onnxruntime.quantization.quantize_static or nncf.quantize"

_ADVICE = {
    "logsoftmax": f"it keeps the order of the logits: {_HEAD}",
    "sigmoid": f"as the head, {_HEAD}; as an activation, {_ACTIVATION}",
    **dict.fromkeys(
        (
            *("hardswish", "hswish", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "swish", "mish"),
            *(
                "softplus",
                "softsign",
                "tanh",
                "hardsigmoid",
                "hsigmoid",
                "thresholdedrelu",
                "qlinearleakyrelu",
            ),
            *("qlinearsigmoid", "silu"),
        ),
        _ACTIVATION,
    ),
    **dict.fromkeys(
        ("convtranspose", "convolutionbackpropdata", "groupconvolutionbackpropdata", "qlinearconvtranspose"),
        _TRANSPOSED,
    ),
    **dict.fromkeys(
        ("dynamicquantizelinear", "convinteger", "matmulinteger", "dynamicquantizematmul"),
        f"its scales change with each picture: {_DYNAMIC}",
    ),
    **dict.fromkeys(("reducemax", "reduceargmax", "onehot"), f"take it of the results: {_HEAD}"),
    "if": "export the network in evaluation mode",
    "loop": "export the network in evaluation mode",
}


def advice(operation: str) -> str:
    """': what would do instead' for an operation that is refused, by its name in a file; '' where nothing is known."""
    known = _ADVICE.get(operation.lower().split(" ")[0])
    return f": {known}" if known else ""
