"""The inner loop of a kernel as the CPU runs it: from the object code that this process has loaded.

A disassembler of the system (`objdump` or `llvm-objdump`) reads that object.  Where there is none, another process
compiles the kernel once more (some seconds) and tells its assembly, which counts only if the object is the same, byte
by byte.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.winograd.params import WinogradParams
from sparse_icnet.run import machine_code
from sparse_icnet.target import TARGET, Dot

DISASSEMBLERS = ("objdump", "llvm-objdump")
TIMEOUT = 300.0  # seconds


class MachineCodeError(ValueError):
    """The machine code cannot be read on this system; the message says why."""


# By the beginning of a mnemonic: what multiplies and adds neighbours; without such an instruction what multiplies at all.
_NEIGHBOURS = r"v?pdp\w+|v?pmadd\w+|[su]+dot"
_ANY = r"v?pmull?d|v?pmuludq|[su]?ml[as]l?2?\b|[su]?mull?2?\b"
_DOTS = re.compile(_NEIGHBOURS if TARGET.x86_registers else f"{_NEIGHBOURS}|{_ANY}")
_BROADCASTS = re.compile(r"v?p?broadcast\w+|vbroadcast\w+|ld1r|dup")
_VECTOR_REGISTER = re.compile(r"%[xyz]mm\d+|\b[vq]\d+\b")
_STORES_AARCH64 = re.compile(r"st[rpu]\w*|st1")
_LOADS_AARCH64 = re.compile(r"ld[rpu]\w*|ld1")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its place (bytes in the object, or lines of the assembly), its text, and what it does.

    does  of "dot", "load" (a vector), "broadcast" (a word into all lanes), "offset" (a word), "store": some, or none
    """

    place: int
    text: str
    does: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """The innermost loop of a kernel.

    function      whose it is; found_by: what read the object
    instructions  of one turn
    loads         of vectors; broadcasts of words of weights; offsets: words that say where a block reads; dots: dot
                  products; stores
    block_dots    dot products of one block, couple of blocks or, filtering, pair of input channels: `unit`; blocks: of them
                  in a turn, 0 where that is not a whole number
    """

    function: str
    found_by: str
    instructions: tuple[Instruction, ...]
    loads: int
    broadcasts: int
    offsets: int
    dots: int
    stores: int
    block_dots: int
    blocks: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Listing:
    """Functions by symbol: each a list of (place, text, place of the jump's target or None)."""

    found_by: str
    functions: Mapping[str, Sequence[tuple[int, str, int | None]]]


def inner_loop(record: type, kernel: str = "", vectors: int = 0, listing: Listing | None = None) -> Loop:
    """The innermost loop of the kernel that reads `record`.

    kernel   name of the micro-kernel, of a direct convolution; vectors: of tiles that a task takes, filtering
    listing  of `listed`, where it is there already

    Raises LookupError where no loop of that kernel is found, MachineCodeError as `listed`.
    """
    listing = listing or listed(record)
    functions = dict(_functions_of(record, kernel, listing))
    expected, wide = _expected(record, kernel, vectors)
    couple = "couple of blocks" if TARGET.couples else "stored block"
    unit = (
        couple
        if record is ConvolutionParams
        else "pair of input channels"
        if record is WinogradParams
        else ""
    )
    loops = [
        _loop(name, listing.found_by, body, expected, unit)
        for name, code in functions.items()
        for body in _innermost(code)
    ]
    if not loops:
        raise LookupError(f"no loop of {KERNELS[record]} was found in the machine code")

    def fits(loop: Loop) -> tuple[bool, int, int]:
        width = loop.dots / loop.broadcasts if loop.broadcasts else 0
        return bool(expected) and loop.blocks > 0 and (not wide or width == wide), loop.dots, loop.loads

    return max(loops, key=fits)


def listed(record: type) -> Listing:
    """The machine code of the kernel that reads `record`, disassembled.

    Raises MachineCodeError where the disassembler fails, or none is there and the compiler does not make the same object
    again.
    """
    code = machine_code.load([machine_code.entry_of(record)])[0].content
    tool = next(filter(None, map(shutil.which, DISASSEMBLERS)), None)
    if tool is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "kernels.o"
            file.write_bytes(code)
            done = _ran([tool, "-d", "--no-show-raw-insn", str(file)])
        return Listing(f"{Path(tool).name}, of the object that is loaded", _from_objdump(done))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "kernels"
        _ran([sys.executable, "-m", "sparse_icnet.study.machine", str(place), record.__name__])
        same = place.with_suffix(".o").read_bytes() == code
        text = place.with_suffix(".s").read_text("utf-8")
    if not same:
        raise MachineCodeError(
            "the compiler made another object than the one that is loaded: to read that one install "
            "a disassembler (objdump of binutils, or llvm-objdump)"
        )
    return Listing("the compiler's assembly of the same object", _from_assembly(text))


def _ran(command: list[str]) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=True
        )
    except subprocess.CalledProcessError as error:
        raise MachineCodeError(f"{Path(command[0]).name} failed: {error.stderr.strip() or error}") from error
    except subprocess.TimeoutExpired as error:
        raise MachineCodeError(f"{Path(command[0]).name} took longer than {TIMEOUT:.0f} s") from error
    return done.stdout


# --- from text to functions -----------------------------------------------------------------------------------


def _from_objdump(text: str) -> dict[str, list[tuple[int, str, int | None]]]:
    """GNU's or LLVM's form: '0000f220 <symbol>:', then '    f4de:	vpdpbusd %zmm24,%zmm5,%zmm12'."""
    functions: dict[str, list[tuple[int, str, int | None]]] = {}
    code: list[tuple[int, str, int | None]] = []
    for line in text.splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            code = functions.setdefault(head[1], [])
        elif found := re.fullmatch(r"\s*([0-9a-f]+):\s+(\S.*)", line):
            words = " ".join(found[2].split())
            jump = re.search(r"(?:0x)?\b([0-9a-f]+) <", words) if _is_jump(words) else None
            words = re.sub(r"\s*(#|//|<).*", "", words)
            code.append((int(found[1], 16), words, int(jump[1], 16) if jump else None))
    return functions


def _from_assembly(text: str) -> dict[str, list[tuple[int, str, int | None]]]:
    """The compiler's form: 'symbol:', '.LBB12_3:', '	vpdpbusd	%zmm24, %zmm5, %zmm12'."""
    functions: dict[str, list[tuple[int, str, int | None]]] = {}
    labels: dict[str, int] = {}
    jumps: list[tuple[list[tuple[int, str, int | None]], int, str]] = []
    code: list[tuple[int, str, int | None]] = []
    for place, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"\s*(##|#|//|;).*", "", line)
        if head := re.fullmatch(r'"?([^\s":]+)"?:', line):
            if re.match(r"\.?L", head[1]):
                labels[head[1]] = place
            else:
                code = functions.setdefault(head[1], [])
        elif line.strip() and not line.strip().startswith("."):
            words = " ".join(line.split()).replace(", ", ",")
            if _is_jump(words):
                jumps.append((code, len(code), re.split(r"[ ,]", words)[-1]))
            code.append((place, words, None))
    for code, index, label in jumps:
        if label in labels:
            code[index] = (*code[index][:2], labels[label])
    return {name: code for name, code in functions.items() if code}


def _is_jump(words: str) -> bool:
    mnemonic = words.partition(" ")[0]
    return bool(re.fullmatch(r"j\w+|b|b\.\w+|cbn?z|tbn?z", mnemonic))


# --- from functions to loops ----------------------------------------------------------------------------------


def demangled(symbol: str) -> tuple[str, int]:
    """('sparse_icnet.operators.convolution.kernel.chunk', 12): the function that Numba compiled, and its number.

    ('', 0) for a symbol that is not Numba's.
    """
    found = re.match(r"_?_ZN", symbol)
    if not found:
        return "", 0
    parts, rest = [], symbol[found.end() :]
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        parts.append(re.sub(r"_([0-9a-f]{2})", lambda c: chr(int(c[1], 16)), rest[length.end() : end]))
        rest = rest[end:]
    version = re.match(r"B\d+v(\d+)", rest)
    return ".".join(part for part in parts if part != "<locals>"), int(version[1]) if version else 0


def _functions_of(record: type, kernel: str, listing: Listing) -> Iterator[tuple[str, Any]]:
    """The functions of the module of a kernel that may hold its loop, by the name that Python has for them."""
    module, _, name = KERNELS[record].partition(":")
    within = f"sparse_icnet.operators.{module}."
    known = [(*demangled(symbol), code) for symbol, code in listing.functions.items()]
    own = [(path, version, code) for path, version, code in known if path.startswith(within)]
    if record is ConvolutionParams:
        # `_micro_kernel` makes one of each tile shape, which are compiled in the order of the table.
        chunks = sorted((one for one in own if one[0].endswith(".chunk")), key=lambda one: one[1])
        if len(chunks) == len(TARGET.kernels):
            number = [one.name for one in TARGET.kernels].index(kernel)
            own = [chunks[number]]
    elif record is not WinogradParams:
        own = [one for one in own if one[0].endswith(f".{name}")]
    for path, _, code in own:
        yield path.removeprefix("sparse_icnet.operators."), code


def _expected(record: type, kernel: str, vectors: int) -> tuple[int, float]:
    """(dot products of one stored block, of them for each broadcast): 0 where that is not known."""
    registers = TARGET.x86_registers or 4  # of Arm's and of a plain vector
    if record is ConvolutionParams:
        micro = next(one for one in TARGET.kernels if one.name == kernel)
        of_word = {Dot.BYTES: 1, Dot.COUPLES: 3, Dot.PAIRS: 2}[TARGET.dot]
        return micro.rows * micro.vectors * registers * of_word, 0
    if record is WinogradParams:
        few, many = TARGET.filtering.vectors
        width = few if few == many or vectors % many else many
        return 4 * width * registers, width * registers if few != many else 0
    return 0, 0


def _innermost(code: Sequence[tuple[int, str, int | None]]) -> list[Sequence[tuple[int, str, int | None]]]:
    """The bodies of loops that hold no other: from the target of a jump back to the jump."""
    places = {place: index for index, (place, _, _) in enumerate(code)}
    last = code[-1][0] if code else 0
    spans = []
    for end, (place, _, target) in enumerate(code):
        if target is None or target > place:
            continue
        # A label of the assembly stands in a line above its instruction.
        start = next((places[at] for at in range(target, min(place, last) + 1) if at in places), None)
        if start is not None:
            spans.append((start, end))
    return [
        code[start : end + 1]
        for start, end in spans
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in spans)
    ]


def _loop(
    function: str, found_by: str, body: Sequence[tuple[int, str, int | None]], block: int, unit: str
) -> Loop:
    instructions = tuple(Instruction(place, text, _does(text)) for place, text, _ in body)
    count = Counter(what for instruction in instructions for what in instruction.does)
    blocks = count["dot"] // block if block and count["dot"] % block == 0 else 0
    return Loop(
        function,
        found_by,
        instructions,
        loads=count["load"],
        broadcasts=count["broadcast"],
        offsets=count["offset"],
        dots=count["dot"],
        stores=count["store"],
        block_dots=block,
        blocks=blocks,
        unit=unit,
    )


def _does(text: str) -> tuple[str, ...]:
    """What an instruction does, of x86 in AT&T's form (the target last) or of 64-bit Arm."""
    mnemonic, _, operands = text.partition(" ")
    vector = bool(_VECTOR_REGISTER.search(operands))
    does = []
    if vector and _DOTS.match(mnemonic):
        does.append("dot")
    if "(" in operands or "%" in operands:  # x86
        memory = re.search(r"[-\w]*\([^)]*\)", operands)
        if "{1to" in operands or (_BROADCASTS.match(mnemonic) and vector) or text.startswith("pshufd $0x0,"):
            does.append("broadcast")
        elif memory and not mnemonic.startswith(("lea", "prefetch", "nop", "cmp", "test", "j")):
            if memory.end() == len(operands) and "," in operands:
                does.append("store")
            else:
                does.append("load" if vector else "offset")
    elif "[" in operands:
        if _STORES_AARCH64.match(mnemonic):
            does.append("store")
        elif _BROADCASTS.match(mnemonic):
            does.append("broadcast")
        elif _LOADS_AARCH64.match(mnemonic):
            does.append("load" if vector else "offset")
    elif vector and _BROADCASTS.match(mnemonic):  # of Arm
        does.append("broadcast")
    return tuple(does)


if __name__ == "__main__":  # in a process that compiles nothing else: see `listed`
    _place, (_record,) = Path(sys.argv[1]), (kind for kind in KERNELS if kind.__name__ == sys.argv[2])
    _object, _assembly = machine_code.recompiled(machine_code.entry_of(_record))
    _place.with_suffix(".o").write_bytes(_object)
    _place.with_suffix(".s").write_text(_assembly, "utf-8")
