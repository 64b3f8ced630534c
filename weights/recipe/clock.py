"""A loop that stops by the clock: on a machine lent for minutes, time is what is planned, not epochs.

The rate and the masks follow the share of the time that has passed.  What a run gives therefore depends on the speed
of its machine; with `steps`, the share is that of the steps, and a run on one machine can be repeated.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weights.recipe.training import GRADIENT_CLIP, fast_bfloat16
from weights.recipe.views import Batch, Pool, Views

GENTLE = 0.85  # share of the time after which the views are gentle
REPORT = 100  # steps between two lines of the log; the only places that wait for the device


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    seconds     of wall clock
    steps       if given, end after so many steps instead
    rate        of the first parameter group; each group has its own factor
    graphed     on a GPU, record the launches of the model once and replay them: faster where the CPU that queues them is
                the slower (batches of 32 and less), but being ready takes 10 to 25 s
    average     weight of the old value in the moving average of the weights, for each step
    warmup      share of the time in which the rate rises from 0
    """

    name: str
    seconds: float
    batch: int
    rate: float
    final_rate: float = 0.0
    steps: int | None = None
    average: float = 0.998
    warmup: float = 0.03
    weight_decay: float = 1e-2
    seed: int = 0
    graphed: bool = False


@dataclass(frozen=True)
class Group:
    """Parameters that train at `factor` times the rate of the plan."""

    module: nn.Module
    factor: float = 1.0


def rate_at(plan: Plan, progress: float) -> float:
    """Linear warm-up, then half a cosine from `rate` to `final_rate`."""
    if progress < plan.warmup:
        return plan.rate * progress / plan.warmup
    rest = (progress - plan.warmup) / (1 - plan.warmup)
    return plan.final_rate + (plan.rate - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def shuffled(count: int, batch: int, random: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Indices of batches without end: every frame once before any comes again."""
    order = torch.empty(0, dtype=torch.int64, device=device)
    while True:
        while len(order) < batch:
            order = torch.cat((order, torch.randperm(count, generator=random, device=device)))
        yield order[:batch]
        order = order[batch:]


def train(
    model: nn.Module,
    groups: list[Group],
    plan: Plan,
    pool: Pool,
    views: Views,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    inputs: Callable[[Tensor], Tensor],
    before: Callable[[float, int], None] | None = None,
    after: Callable[[float, int], None] | None = None,
    log: Callable[[str], None] = print,
) -> nn.Module:
    """Train `model` in place on views of `pool`; returns the moving average of its weights and statistics.

    loss_of   (model, batch) -> the loss, under autocast where the device multiplies bfloat16 fast
    inputs    images of a batch -> what `loss_of` gives the model
    before    called with (share of the time passed, step) before each step: masks
    after     the same between the gradients and the step that they cause: what gradients say
    """
    if plan.seconds <= 0:
        raise ValueError(f"{plan.name}: expected time to train, found {plan.seconds:.0f} s")
    start = time.perf_counter()
    device = pool.device
    kind = device.type
    random = torch.Generator(device=device).manual_seed(plan.seed)
    torch.manual_seed(plan.seed)
    model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval()
    for parameter in average.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        _parameter_groups(groups, plan), lr=plan.rate, betas=(0.9, 0.99), fused=kind == "cuda"
    )
    old, new = average.state_dict(), model.state_dict()
    floats = [k for k in old if old[k].is_floating_point()]
    others = [k for k in old if not old[k].is_floating_point()]
    losses: list[Tensor] = []
    step = 0
    gentle = views.gentle()
    source = shuffled(len(pool), plan.batch, random, device)
    mixed = fast_bfloat16(kind)
    if kind == "cuda" and plan.graphed:
        with torch.no_grad():
            sample = inputs(views.draw(pool, next(source), random).images)
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=False):
            torch.cuda.make_graphed_callables(model, (sample,))
    ready = time.perf_counter()
    while True:
        passed = time.perf_counter() - start
        progress = step / plan.steps if plan.steps else passed / plan.seconds
        if progress >= 1:
            break
        if before is not None:
            before(progress, step)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(plan, progress) * group["factor"]
        with torch.no_grad():
            batch = (views if progress < GENTLE else gentle).draw(pool, next(source), random)
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=False):
            loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if after is not None:
            after(progress, step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        keep = min(plan.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_([old[k] for k in floats], [new[k] for k in floats], 1 - keep)
        losses.append(loss.detach())
        step += 1
        if step % REPORT == 0:
            mean = float(torch.stack(losses).mean())
            losses.clear()
            views_done = step * plan.batch
            log(
                f"{plan.name}: {progress:.0%}, step {step}, loss {mean:.4f}, "
                f"{views_done / (time.perf_counter() - ready):.0f} views/s"
            )
            if not math.isfinite(mean):
                raise FloatingPointError(f"{plan.name}: the loss is {mean} at step {step}")
    for k in others:  # masks and counters
        old[k].copy_(new[k])
    seconds = time.perf_counter() - start
    log(
        f"{plan.name}: {step} steps of {plan.batch} views, {step * plan.batch / len(pool):.0f} epochs, {seconds:.0f} s, "
        f"ready after {ready - start:.1f} s"
    )
    return average


def _parameter_groups(groups: list[Group], plan: Plan) -> list[dict[str, object]]:
    """Weight decay on convolution weights only; each group at its own rate."""
    result: list[dict[str, object]] = []
    for group in groups:
        parameters = [p for p in group.module.parameters() if p.requires_grad]
        for chosen, decay in (
            ([p for p in parameters if p.ndim == 4], plan.weight_decay),
            ([p for p in parameters if p.ndim != 4], 0.0),
        ):
            if chosen:
                result.append({"params": chosen, "weight_decay": decay, "factor": group.factor})
    return result
