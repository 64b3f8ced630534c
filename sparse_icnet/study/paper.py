"""What a layer is in the papers: branch and stage of ICNet, name in its authors' model, place in ResNet-50.

ICNet (Zhao, Qi, Shen, Shi, Jia, ECCV 2018) is built from PSPNet-50 (CVPR 2017), whose encoder is ResNet-50 (He, Zhang,
Ren, Sun, CVPR 2016) with dilation in its last two stages, here with half of the kernels.  The authors' model calls the
layers of a bottleneck `conv3_1_1x1_reduce`, `conv3_1_3x3`, `conv3_1_1x1_increase` and `conv3_1_1x1_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from sparse_icnet.network.graph import Graph
from sparse_icnet.network.icnet import (
    FUSION_LAYERS,
    HIGH_LAYERS,
    LOW_BLOCKS,
    MEDIUM_BLOCKS,
    PYRAMID_BINS,
    PYRAMID_LAYER,
    STEM_LAYERS,
    BlockSpec,
    layer_specs,
)

HIGH = "high-resolution branch, on the whole image"
MEDIUM = "medium branch, on the image halved"
LOW = "low branch, on the medium branch halved"
FUSION = "cascade feature fusion"
HEAD = "classifier"

_PARTS = {
    "reduce": ("1x1 that reduces the channels", "1x1_reduce", "conv1"),
    "3x3": ("3x3 in the middle", "3x3", "conv2"),
    "increase": ("1x1 that increases the channels, without ReLU", "1x1_increase", "conv3"),
    "proj": ("1x1 projection beside it, on the shortcut", "1x1_proj", "downsample.0"),
}
_STEM_NAMES = {"conv1_1": "conv1_1_3x3_s2", "conv1_2": "conv1_2_3x3", "conv1_3": "conv1_3_3x3"}
_FUSION_NAMES = {
    "cff42": ("conv_sub4", "conv3_1_sub2_proj", "sub24_sum", "low", "medium"),
    "cff421": ("conv_sub2", "conv3_sub1_proj", "sub12_sum", "medium and low", "high-resolution"),
}
_LENGTHS = {2: 3, 3: 4, 4: 6, 5: 3}  # bottlenecks of each stage of ResNet-50


@dataclass(frozen=True, slots=True)
class Place:
    """A layer in the papers.

    branch   of ICNet; role: what it does there
    authors  its name in the authors' model; resnet: in ResNet-50 as torchvision names it; "" where there is none
    """

    branch: str
    role: str
    authors: str = ""
    resnet: str = ""


def place_of(graph: Graph, name: str) -> Place | None:
    """The place of an operation of `graph`; None where it is not recognised as one of ICNet."""
    if name in _places():
        return _places()[name] if is_icnet(graph) else None
    layer = _by_shape(graph).get(name)
    return _places()[layer] if layer else None


def is_icnet(graph: Graph) -> bool:
    """Whether the graph has the convolutions of ICNet by their names."""
    known = {layer.name for layer in layer_specs()}
    return known <= {op.name for op in graph.convolutions}


def _by_shape(graph: Graph) -> Mapping[str, str]:
    """Names of convolutions -> names of ICNet's, for a file with names of its own but the same layers in the same order."""
    specs, ops = layer_specs(), graph.convolutions
    if len(ops) != len(specs):
        return {}
    expected = [(s.outputs, s.inputs, s.kernel, s.kernel) for s in specs[:-1]]
    if [op.weight.shape for op in ops[:-1]] != expected:
        return {}
    return {op.name: spec.name for op, spec in zip(ops, specs, strict=True)}


@cache
def _places() -> Mapping[str, Place]:
    """Of every operation that `sparse_icnet.network.icnet` names."""
    places = {
        "image": Place("input", "the network input"),
        "input": Place("input", "the image as codes, for the high and the medium branch"),
        "image_half": Place(MEDIUM, "the image halved", "data_sub2"),
        "pool1": Place(MEDIUM, "3x3 max pool of stride 2 behind the stem", "pool1_3x3_s2", "maxpool"),
        "conv3_1_half": Place(LOW, "the output of the medium branch halved", "conv3_1_sub4"),
        "pyramid": Place(LOW, "sum of the pyramid of PSPNet", "conv5_3_sum"),
        "cff421_up": Place(HEAD, "the fused map enlarged twice", "sub12_sum_interp"),
        "logits_up": Place(HEAD, "the scores of the classes enlarged four times", "conv6_interp"),
        "probabilities": Place(HEAD, "softmax over the classes"),
        "conv6_cls": Place(HEAD, "1x1 from 128 channels to the scores of the classes", "conv6_cls"),
    }
    for number, layer in enumerate(HIGH_LAYERS, 1):
        places[layer.name] = Place(HIGH, f"{number}. of its three 3x3 layers, stride 2", layer.name)
    for number, layer in enumerate(STEM_LAYERS, 1):
        role = f"{number}. of the three 3x3 layers of the stem, in place of ResNet's 7x7"
        places[layer.name] = Place(MEDIUM, role, _STEM_NAMES[layer.name])
    for branch, blocks in ((MEDIUM, MEDIUM_BLOCKS), (LOW, LOW_BLOCKS)):
        for block in blocks:
            places |= _block(branch, block)
    for bins in PYRAMID_BINS:
        what = f"{bins} x {bins} bins"
        places[f"pyramid/pool{bins}"] = Place(LOW, f"pyramid: means of {what}", f"conv5_3_pool{bins}")
        places[f"pyramid/up{bins}"] = Place(
            LOW, f"pyramid: {what} as large as the map", f"conv5_3_pool{bins}_interp"
        )
        places[f"pyramid/sum{bins}"] = Place(LOW, f"pyramid: sum up to {what}", "conv5_3_sum")
    places[PYRAMID_LAYER.name] = Place(LOW, "1x1 behind the pyramid", PYRAMID_LAYER.name)
    for name, (low, high) in FUSION_LAYERS.items():
        low_name, high_name, total, coarse, fine = _FUSION_NAMES[name]
        branch = f"{FUSION} of the {coarse} with the {fine} branch"
        places[low.name] = Place(branch, "3x3, dilation 2, of the coarse map enlarged twice", low_name)
        places[high.name] = Place(branch, "1x1 projection of the fine map", high_name)
        places[f"{name}/sum"] = Place(branch, "sum of both", total)
        places[name] = Place(branch, "ReLU of the sum", f"{total}/relu")
        places[f"{name}/up"] = Place(branch, "the coarse map enlarged twice")
    for name, place in list(places.items()):
        places.setdefault(f"{name}/relu", Place(place.branch, f"ReLU of {name}", place.authors))
        places.setdefault(f"{name}/codes", Place(place.branch, f"quantizer of {name}", place.authors))
    return MappingProxyType(places)


def _block(branch: str, block: BlockSpec) -> dict[str, Place]:
    stage, number = map(int, block.name.removeprefix("conv").split("_"))
    where = f"bottleneck {number} of {_LENGTHS[stage]} in stage conv{stage}_x"
    torch = f"layer{stage - 1}.{number - 1}"
    places = {
        f"{block.name}/sum": Place(branch, f"{where}: sum with the shortcut", block.name, torch),
        block.name: Place(branch, f"{where}: ReLU of the sum", f"{block.name}/relu", f"{torch}.relu"),
    }
    for layer in block.layers:
        part = layer.name.partition("/")[2]
        role, authors, resnet = _PARTS[part]
        dilated = f", dilation {layer.dilation}" if layer.dilation > 1 else ""
        strided = f", stride {layer.stride}" if layer.stride > 1 else ""
        places[layer.name] = Place(
            branch, f"{where}: {role}{strided}{dilated}", f"{block.name}_{authors}", f"{torch}.{resnet}"
        )
    return places
