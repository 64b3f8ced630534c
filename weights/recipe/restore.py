"""From a native file back to a state that trains: the weights of the file, batch norms measured anew.

python -m weights.recipe.restore --data camvid --model weights/icnet-camvid-int8-sparse-60.npz --out runs/again/start.pt

A file holds weights with the batch norm multiplied in.  The restored network computes the same (up to the rounding
of the activations), but its layers have a batch norm again, with the statistics of training crops; so it can be trained
further from the shipped file alone.  The auxiliary classifiers, which inference drops, start from zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from sparse_icnet.formats import native
from sparse_icnet.network.graph import Graph
from weights.recipe.data import CROPS, Frame, batches, load_frames
from weights.recipe.model import EPSILON, ICNet, Layer, normalize
from weights.recipe.training import save_state

BATCHES = 24  # of crops, for the statistics
ROOT_MEAN_SQUARE = (
    0.1  # of the weights of a filter; the network does not depend on it, the rate of training does
)


@torch.no_grad()
def fold_in(model: ICNet, graph: Graph) -> None:
    """Fill the layers of `model` with the weights and zeros of `graph`, batch norm 'x * gamma + beta'.

    Raises ValueError where `graph` is not an ICNet of the shape of `model`.
    """
    convolutions = {op.name: op for op in graph.convolutions}
    names = {name for name, _ in model.named_layers()}
    if convolutions.keys() != names:
        raise ValueError(
            f"expected the convolutions of ICNet, found others: {sorted(convolutions.keys() ^ names)[:4]}"
        )
    for name, layer in model.named_layers():
        op = convolutions[name]
        weight = torch.from_numpy(op.weight).float() * torch.from_numpy(op.weight_scale)[:, None, None, None]
        if weight.shape != layer.weight.shape:
            raise ValueError(
                f"{name}: expected weights {tuple(layer.weight.shape)}, found {tuple(weight.shape)}"
            )
        layer.mask.copy_(torch.from_numpy(op.weight != 0))
        bias = torch.from_numpy(op.bias)
        if not layer.normalized:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            continue
        norm = weight.flatten(1).norm(dim=1)
        gain = torch.where(
            norm > 0, norm / (ROOT_MEAN_SQUARE * weight[0].numel() ** 0.5), torch.ones_like(norm)
        )
        layer.weight.copy_(weight / gain[:, None, None, None])
        layer.mean.zero_()
        layer.var.fill_(1 - EPSILON)
        layer.gamma.copy_(gain)
        layer.beta.copy_(bias)
    for layer in model.auxiliary.values():
        layer.weight.zero_()


def measure_batch_norm(model: ICNet, frames: list[Frame], seed: int = 0) -> None:
    """Give every batch norm the statistics of its input over training crops, and keep what it computes."""
    source = batches(frames, CROPS, min(8, len(frames)), seed, 0)
    crops = (images for _, (images, _) in zip(range(BATCHES), source, strict=False))
    measure_from(model, (normalize(images).to(memory_format=torch.channels_last) for images in crops))


@torch.no_grad()
def measure_from(model: ICNet, inputs: Iterable[torch.Tensor]) -> None:
    """`measure_batch_norm` over these network inputs."""
    sums: dict[str, list[torch.Tensor]] = {}
    layers = {name: layer for name, layer in model.named_layers() if layer.normalized}

    def record(name: str):
        def hook(layer: Layer, _: object, y: torch.Tensor) -> None:
            mean, square = y.double().mean((0, 2, 3)), y.double().square().mean((0, 2, 3))
            sums.setdefault(name, []).append(torch.stack((mean, square)))

        return hook

    hooks = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    model.eval()
    for x in inputs:
        model(x)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        mean, square = torch.stack(sums[name]).mean(0)
        gain, bias = layer.gamma.double(), layer.beta.double()
        # What was measured is gain * x + bias, where x is the convolution with the stored weights.
        layer.mean.copy_((mean - bias) / gain)
        layer.var.copy_((square - mean**2) / gain**2)
        layer.gamma.copy_(gain * torch.sqrt(layer.var.double() + EPSILON))
        layer.beta.copy_(mean)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--model", type=Path, required=True, help="native file of an ICNet")
    parser.add_argument("--out", type=Path, required=True, help="state to write, .pt")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = ICNet()
    fold_in(model, native.load(options.model))
    measure_batch_norm(model, load_frames(options.data, "train"))
    save_state(model, options.out)


if __name__ == "__main__":
    main()
