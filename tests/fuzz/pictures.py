"""Pictures and broken videos through `segment`: `python -m tests.fuzz.pictures`.

    python -m tests.fuzz.pictures --count 5000 --record FILE
    python -m tests.fuzz.pictures --only 17 --keep DIR          one of them again, kept as a file

Every mode and format that Pillow writes here (16 bits, CMYK, alpha, palettes, every EXIF orientation, animations), 1x1,
20,000x10 and 10x20,000, headers that promise more than there is, bombs; and films whose frames are decoded and segmented.
Most are changed: cut off, bytes changed, dimensions in the header.  File number i of a seed is always the same.

    segmented   a class map uint8 of the size of the upright picture; of a film that of every frame up to FRAMES
    refused     ImageError, one line that names the file

Anything else is a fault, as is more of the processor than a second and what the pixels explain (PIXELS_A_SECOND), or more
memory than MEMORY times the file, BYTES_A_PIXEL of what its header promises and SLACK.  A process of its own works on the
files, with a limit on its address space; when it dies, that file is a fault and the next one takes a new process.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from recorded import ROOT, header, now, write_json

from .check import MEMORY, _memory_now, _memory_peak
from .values import flipped, pick

SIZE = (96, 96)  # of the network
FRAMES = 3
SECONDS = 120.0  # on the clock, after which a file counts as hanging
PIXELS_A_SECOND = 1 << 23
BYTES_A_PIXEL = 16  # decoded, converted, RGB in Pillow's four bytes a pixel, class map
SLACK = 64 << 20
ADDRESS_SPACE = 6 << 30
Picture = tuple[str, bytes]  # suffix, content


def _pixels(rng: np.random.Generator, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 (height, width, channels) of waves and noise."""
    width, height = size
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((x * (3 + c) + y * 5) % 200 + rng.integers(0, 56, (height, width, channels))).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a street"
    return exif


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file whose header says what it likes."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


@cache
def bases() -> dict[str, Picture]:
    """Name -> file; those whose name begins with "bomb" promise too much."""
    rng = np.random.default_rng(0)
    found: dict[str, Picture] = {}
    rgb = Image.fromarray(_pixels(rng, (61, 43), 3))
    alpha = Image.fromarray(_pixels(rng, (61, 43), 4))
    sixteen = Image.fromarray(rng.integers(0, 65536, (43, 61)).astype(np.uint16))
    png_modes = {"RGB": rgb, "RGBA": alpha, "I;16": sixteen} | {
        mode: rgb.convert(mode) for mode in ("1", "L", "P")
    }
    png_modes["LA"] = alpha.convert("LA")
    for mode, image in png_modes.items():
        found[f"png {mode}"] = ".png", _saved(image, "PNG")
    found["png palette with alpha"] = ".png", _saved(rgb.convert("P"), "PNG", transparency=3)
    for orientation in range(1, 10):
        found[f"jpeg turned {orientation}"] = ".jpg", _saved(rgb, "JPEG", exif=_exif(orientation))
    for mode in ("L", "CMYK", "YCbCr"):
        found[f"jpeg {mode}"] = ".jpg", _saved(rgb.convert(mode), "JPEG")
    found["jpeg progressive"] = (
        ".jpg",
        _saved(rgb, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
    )
    for mode in ("RGB", "RGBA", "CMYK", "I;16", "F", "LAB", "1"):
        image = (
            sixteen if mode == "I;16" else rgb.convert("L").convert("F") if mode == "F" else rgb.convert(mode)
        )
        found[f"tiff {mode}"] = (
            ".tif",
            _saved(image, "TIFF", exif=_exif(6)) if mode != "F" else _saved(image, "TIFF"),
        )
    found["tiff pages"] = ".tif", _saved(rgb, "TIFF", save_all=True, append_images=[alpha.convert("RGB")] * 2)
    frames = [Image.fromarray(_pixels(rng, (40, 30), 3)) for _ in range(3)]
    for kind in ("GIF", "PNG", "WEBP"):
        if kind in Image.registered_extensions().values():
            content = _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
            found[f"{kind} of three frames"] = f".{kind.lower()}", content
    for kind in ("BMP", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "WEBP", "AVIF", "QOI", "DDS"):
        try:
            found[kind] = f".{kind.lower()}", _saved(rgb, kind)
        except (KeyError, OSError, ValueError):  # not in this build of Pillow
            continue
    for width, height in ((1, 1), (20000, 10), (10, 20000), (1, 300), (2, 1)):
        image = Image.fromarray(_pixels(rng, (width, height), 3))
        found[f"{width}x{height}"] = ".png", _saved(image, "PNG")
        found[f"{width}x{height} jpeg"] = ".jpg", _saved(image, "JPEG")
    zeros = zlib.compress(bytes(1 << 20), 9)
    found["bomb of 50000x50000"] = ".png", png(50000, 50000, zeros)
    found["bomb of 2147483647x1"] = ".png", png((1 << 31) - 1, 1, zeros)
    found["bomb of 0x5"] = ".png", png(0, 5, zeros)
    found["bomb of one bit"] = ".png", png(11000, 11000, zlib.compress(bytes(11000 * 1376), 9), 1, 0)
    gif = bytearray(found["GIF of three frames"][1])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    found["bomb of a gif"] = ".gif", bytes(gif)
    bmp = bytearray(found["BMP"][1])
    bmp[18:26] = struct.pack("<ii", 1 << 30, 1 << 30)
    found["bomb of a bmp"] = ".bmp", bytes(bmp)
    return found | (_films() if find_spec("av") else {})


def _films() -> dict[str, Picture]:
    """Twelve frames in each container."""
    import av

    found: dict[str, Picture] = {}
    rng = np.random.default_rng(1)
    for name, container, codec, pixels in (
        ("film mp4", "mp4", "mpeg4", "yuv420p"),
        ("film mkv", "matroska", "mjpeg", "yuvj420p"),
        ("film avi", "avi", "mpeg4", "yuv420p"),
        ("film mov", "mov", "mjpeg", "yuvj420p"),
    ):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as output:
            stream = output.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for _ in range(12):
                for packet in stream.encode(av.VideoFrame.from_ndarray(_pixels(rng, (64, 48), 3))):
                    output.mux(packet)
            for packet in stream.encode():
                output.mux(packet)
        suffix = ".mkv" if container == "matroska" else f".{container}"
        found[name] = suffix, buffer.getvalue()
    return found


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 7))):
        data = flipped(rng, data)
    return data or b"\0"


def _head(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes among the first bytes, where sizes, depths and modes stand; the check sum of a PNG header stays right."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        changed[int(rng.integers(4, min(len(changed), 64) or 5)) % len(changed)] = int(rng.integers(256))
    if data.startswith(b"\x89PNG") and len(changed) > 33:
        changed[:16] = data[:16]
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed)


_CHANGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (_cut, _bytes, _bytes, _head)


def picture(seed: int, index: int) -> tuple[str, Picture]:
    """(name of its base, file) number `index`: first each base as it is, then changed ones."""
    known = bases()
    names = list(known)
    if index < len(names):
        return names[index], known[names[index]]
    rng = np.random.default_rng([seed, index])
    name = pick(rng, names)
    suffix, content = known[name]
    return f"{name}, changed", (suffix, pick(rng, _CHANGES)(content, rng))


def check(net: Any, path: Path, is_film: bool) -> tuple[str, dict[str, float]]:
    """ "segmented", "refused" or a fault in words; what it cost."""
    from sparse_icnet.image import ImageError

    before = _memory_now()
    start = time.process_time()
    promised = 0
    try:
        verdict, promised = _film(net, path) if is_film else _still(net, path)
    except ImageError as error:
        text = str(error)
        verdict = "refused" if str(path) in text and len(text.splitlines()) == 1 else f"message: {text[:300]}"
    except Exception as error:
        verdict = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - start
    memory = max(0, _memory_peak() - before) if before else 0
    promised = promised or _promised(path)
    size = path.stat().st_size
    if verdict in ("segmented", "refused"):
        if seconds > 1 + promised / PIXELS_A_SECOND:
            verdict = f"{verdict} in {seconds:.2f} s for {promised} pixels"
        elif memory > MEMORY * size + BYTES_A_PIXEL * promised + SLACK:
            verdict = f"{verdict} with {memory} bytes for {promised} pixels and a file of {size} bytes"
    return verdict, {"seconds": round(seconds, 3), "memory": memory, "pixels": promised}


def _still(net: Any, path: Path) -> tuple[str, int]:
    classes = net.segment(path)
    from sparse_icnet.image import to_rgb

    width, height = to_rgb(path).size
    good = classes.dtype == np.uint8 and classes.shape == (height, width) and classes.max() < 12
    return "segmented" if good else f"class map {classes.dtype} {classes.shape}", 2 * width * height


def _film(net: Any, path: Path) -> tuple[str, int]:
    from sparse_icnet import video

    film, pixels = video.probe(path), 0
    for index, frame in video.read(film.stretch()):
        if index >= FRAMES:
            break
        classes = net.segment(frame)
        pixels += classes.size
        if classes.shape != film.size:
            return f"frame {index}: class map of {classes.shape} in a film of {film.size}", pixels
    return "segmented", pixels


def _promised(path: Path) -> int:
    """Pixels that the header promises, of what Pillow opens."""
    try:
        with Image.open(path) as image:
            return min(image.width * image.height, 1 << 27)
    except Exception:
        return 0


def _work(seed: int, first: int, count: int, keep: Path | None) -> None:
    """The process: says on which file it begins, and what became of it."""
    import resource

    import sparse_icnet

    net = sparse_icnet.load(size=SIZE, threads=1)
    net.segment(np.zeros((9, 9, 3), np.uint8))
    bases()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # Pillow's own, about what it reads
    with tempfile.TemporaryDirectory() as folder:
        for index in range(first, first + count):
            name, (suffix, content) = picture(seed, index)
            print(json.dumps({"begun": index, "name": name}), flush=True)
            path = (keep or Path(folder)) / f"picture{suffix}"
            path.write_bytes(content)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            verdict, cost = check(net, path, name.startswith("film"))
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"done": index, "name": name, "verdict": verdict, "cost": cost}), flush=True)


def run(seed: int, count: int) -> dict[str, Any]:
    """What became of `count` files, in processes that replace each other when one dies."""
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    worst: dict[str, float] = {}
    first = 0
    while first < count:
        arguments = ["--child", "--seed", str(seed), "--first", str(first), "--count", str(count - first)]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.pictures", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        begun: dict[str, Any] | None = None
        for line in child.stdout:
            if not line.startswith("{"):  # of a decoder
                continue
            message = json.loads(line)
            if "done" not in message:
                begun = message
                continue
            verdict = message["verdict"]
            counts[verdict if verdict in ("segmented", "refused") else "fault"] += 1
            kinds[message["name"].split(",")[0]] += 1
            if verdict not in ("segmented", "refused"):
                faults.append(f"{message['done']}, {message['name']}: {verdict}")
            for name, value in message["cost"].items():
                worst[name] = max(value, worst.get(name, 0))
        if not child.wait():
            break
        if begun is None:
            raise RuntimeError(f"the process ended with {child.returncode} before its first file")
        counts["fault"] += 1
        faults.append(f"{begun['begun']}, {begun['name']}: the process ended with {child.returncode}")
        first = begun["begun"] + 1
    return {
        "files": counts.total(),
        "counts": dict(counts),
        "kinds": dict(kinds),
        "worst": worst,
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--count", type=int, default=1000, metavar="N", help="files, default 1000")
    add("--first", type=int, default=0, metavar="I", help=argparse.SUPPRESS)
    add("--seed", type=int, default=1, metavar="S", help="default 1")
    add("--only", type=int, metavar="I", help="this file alone, in this process")
    add("--keep", type=Path, metavar="DIR", help="where it is left")
    add("--record", type=Path, metavar="FILE", help="keep the results in a JSON file")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child or options.only is not None:
        only = options.only is not None
        _work(
            options.seed, options.only if only else options.first, 1 if only else options.count, options.keep
        )
        return 0
    start = time.monotonic()
    results = header(f"python -m tests.fuzz.pictures --count {options.count} --seed {options.seed}")
    results |= run(options.seed, options.count)
    results |= {"finished": now(), "seconds": round(time.monotonic() - start)}
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.record, results)
    print(
        json.dumps(
            {name: results[name] for name in ("files", "counts", "worst", "faults", "seconds")}, indent=1
        )
    )
    return int(bool(results["faults"]))


if __name__ == "__main__":
    sys.exit(main())
