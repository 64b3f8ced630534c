"""Inference without end, one thread: the same bits each time, memory that does not grow, nothing lost on the way.

Both bundled models take turns over the same few blobs, images and a JPEG file of a street, at full size; every result's
digest is compared with that of its first time.  Resident memory, threads and open descriptors are sampled.
"""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sparse_icnet
from sparse_icnet import bundled
from sparse_icnet.network.graph import Size

from .record import Record

_MIB = 1 << 20
# Of the median of the last quarter over that of the second: an allocator may keep a few pages more, a leak of one result
# an inference would be gigabytes.
_MOST_GROWTH = 4 * _MIB


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(seconds: float, seed: int, size: Size = (768, 960), every: float = 10.0) -> Record:
    """For `seconds` of the clock; a sample each `every` seconds."""
    record = Record("endurance", seed)
    calls = _calls(seed, size)
    first = {name: call() for name, call in calls.items()}
    if len(set(first.values())) < len(first) // 2:
        record.fault("the results of different inputs are the same")
    gc.collect()
    start = time.monotonic()
    samples: list[dict[str, float]] = []
    total = hashlib.sha256()
    while (now := time.monotonic() - start) < seconds:
        if now >= len(samples) * every:
            samples.append(
                {
                    "second": round(now, 1),
                    "rss_mib": round(resident() / _MIB, 2),
                    "threads": len(os.listdir("/proc/self/task")),
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "inferences": record.counts["inferences"],
                }
            )
        for name, call in calls.items():
            digest = call()
            total.update(digest.encode())
            record.check(
                digest == first[name], "inferences", f"{name} after {now:.0f} s: {digest}, not {first[name]}"
            )
    record.figures = _figures(samples, first)
    record.figures["digest_of_digests"] = total.hexdigest()[:16]
    grown = record.figures["growth_mib"] * _MIB
    if grown > _MOST_GROWTH:
        record.fault(f"memory grew by {grown / _MIB:.1f} MiB")
    for what in ("threads", "descriptors"):
        ends = {sample[what] for sample in samples[1:]}
        if len(ends) > 1:
            record.fault(f"the number of {what} changed: {sorted(ends)}")
    return record


def _calls(seed: int, size: Size) -> dict[str, Callable[[], str]]:
    """name -> an inference that gives the digest of its result."""
    rng = np.random.default_rng(seed)
    blobs = [rng.normal(0, 1.3, (1, 3, *size)).astype(np.float32) for _ in range(3)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    calls: dict[str, Callable[[], str]] = {}
    for model in bundled.names():
        net = sparse_icnet.load(model, size=size, threads=1)
        for number, blob in enumerate(blobs):
            calls[f"{model} blob {number}"] = lambda net=net, blob=blob: _digest(net(blob))
        for number, image in enumerate(images):
            calls[f"{model} image {number}"] = lambda net=net, image=image: _digest(net.segment(image))
        calls[f"{model} file"] = lambda net=net: _digest(net.predict(bundled.SAMPLE_IMAGE).classes)
    return calls


def _digest(result: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(result)).hexdigest()[:16]


def _figures(samples: list[dict[str, float]], first: dict[str, str]) -> dict:
    rss = np.array([sample["rss_mib"] for sample in samples])
    when = np.array([sample["second"] for sample in samples])
    quarter = max(len(rss) // 4, 1)
    slope = float(np.polyfit(when[quarter:], rss[quarter:], 1)[0]) if len(rss) > quarter + 2 else 0.0
    growth = float(np.median(rss[-quarter:]) - np.median(rss[quarter : 2 * quarter] if quarter > 1 else rss))
    return {
        "rss_mib_first": float(rss[0]),
        "rss_mib_least": float(rss.min()),
        "rss_mib_most": float(rss.max()),
        "growth_mib": round(growth, 3),
        "slope_mib_per_hour": round(3600 * slope, 3),
        "digests": first,
        "samples": samples,
    }
