"""Object files of the compiler -> machine code in memory, without loading LLVM: that takes 40 ms and 42 MB.

Knows what LLVM makes for x86-64 on Linux: ELF, relocatable, with the relocations of its large code model (System V
Application Binary Interface, AMD64 Architecture Processor Supplement, sections 4.3 and 4.4).  Anything else is an
UnknownObjectError, and LLVM's own loader takes it.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.pages import EXECUTE, READ, WRITE, Pages, is_x86_64_linux

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_SECTION = np.dtype(
    {
        "names": ("type", "flags", "offset", "size", "link", "info", "align"),
        "formats": ("<u4", "<u8", "<u8", "<u8", "<u4", "<u4", "<u8"),
        "offsets": (4, 8, 24, 32, 40, 44, 48),
        "itemsize": 64,
    }
)
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
# Types of sections; unwind tables are for exceptions, which kernels have not.
_PROGBITS, _SYMTAB, _RELA, _NOBITS, _UNWIND = 1, 2, 4, 8, 0x70000001
_FLAG_WRITE, _FLAG_MEMORY, _FLAG_CODE, _FLAG_THREAD = 1, 2, 4, 0x400
_UNDEFINED, _ABSOLUTE, _COMMON = 0, 0xFFF1, 0xFFF2
_64, _PC32, _PLT32, _PC64 = 1, 2, 4, 24  # types of relocations
_MOST_ALIGNMENT = 4096


class UnknownObjectError(ValueError):
    """An object file, or a system, that `link` does not know."""


@dataclass(frozen=True, slots=True)
class _Object:
    """The tables of an object file."""

    content: bytes
    sections: NDArray[np.void]
    symbols: NDArray[np.void]
    names: bytes

    def name(self, symbol: int) -> str:
        start = int(self.symbols[symbol]["name"])
        return self.names[start : self.names.index(b"\0", start)].decode()


def link(objects: Sequence[tuple[bytes, str]]) -> list[int]:
    """Of each (object file, name of a function in it) the address of that function.

    All are put into one piece of memory, which lives as long as the process.  They know nothing of one another: of
    what they call, only what the C library has lies outside.

    Raises UnknownObjectError for what this linker does not know, OSError where the system gives no such memory.
    """
    if not is_x86_64_linux():
        raise UnknownObjectError("an object for another system than x86-64 Linux")
    try:
        found = [_parsed(content) for content, _ in objects]
        places, ends = _placed(found)
        pages = Pages(ends[-1])
        addresses = [
            _linked(pages, one, own, entry)
            for one, own, (_, entry) in zip(found, places, objects, strict=True)
        ]
        code, constants, variables = ends
        pages.protect(0, code, READ | EXECUTE)
        pages.protect(code, constants - code, READ)
        pages.protect(constants, variables - constants, READ | WRITE)
        return addresses
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise error if isinstance(error, UnknownObjectError) else UnknownObjectError(str(error)) from error


def _parsed(content: bytes) -> _Object:
    header = _HEADER.unpack_from(content)
    identity, kind, machine, start, entry_size, count = (header[i] for i in (0, 1, 2, 6, 11, 12))
    if not identity.startswith(_IDENTITY) or (kind, machine) != (_RELOCATABLE, _X86_64):
        raise UnknownObjectError("no relocatable ELF object for x86-64")
    if entry_size != _SECTION.itemsize:
        raise UnknownObjectError(f"entries of {entry_size} bytes in the table of sections")
    sections = np.frombuffer(content, _SECTION, count, start)
    tables = np.flatnonzero(sections["type"] == _SYMTAB)
    if len(tables) != 1:
        raise UnknownObjectError(f"{len(tables)} tables of symbols")
    table = sections[tables[0]]
    symbols = np.frombuffer(_content(content, table), _SYMBOL)
    return _Object(content, sections, symbols, _content(content, sections[int(table["link"])]))


def _content(content: bytes, section: Any) -> bytes:
    first, size = int(section["offset"]), int(section["size"])
    if first + size > len(content):
        raise UnknownObjectError("a section that ends behind the file")
    return content[first : first + size]


def _placed(objects: Sequence[_Object]) -> tuple[list[dict[int, int]], tuple[int, int, int]]:
    """(of each object section -> offset in memory, offsets where code, constants and variables end).

    Each of the three begins on a page, that of all objects together.  Variables without a content of their own
    (SHN_COMMON) have a place as section -1 - symbol.
    """
    places: list[dict[int, int]] = [{} for _ in objects]
    ends = []
    end = 0
    for kind in ("code", "constants", "variables"):
        for found, own in zip(objects, places, strict=True):
            end = _placed_of(found, kind, end, own)
        end = _aligned(end, mmap.PAGESIZE)
        ends.append(end)
    if end > 1 << 28:
        raise UnknownObjectError(f"{end} bytes of memory")
    return places, (ends[0], ends[1], ends[2])


def _placed_of(found: _Object, wanted: str, end: int, places: dict[int, int]) -> int:
    """Put the sections of one kind of an object behind `end`, note their `places`; where they end."""
    for index, section in enumerate(found.sections):
        flags = int(section["flags"])
        if not flags & _FLAG_MEMORY or section["type"] == _UNWIND:
            continue
        if section["type"] not in (_PROGBITS, _NOBITS) or flags & _FLAG_THREAD:
            raise UnknownObjectError(f"a section of type {section['type']} with flags {flags}")
        kind = "code" if flags & _FLAG_CODE else "variables" if flags & _FLAG_WRITE else "constants"
        if kind == wanted:
            end = _aligned(end, int(section["align"]))
            places[index] = end
            end += int(section["size"])
    if wanted == "variables":
        for index in np.flatnonzero(found.symbols["section"] == _COMMON).tolist():
            end = _aligned(end, int(found.symbols[index]["value"]))
            places[-1 - index] = end
            end += int(found.symbols[index]["size"])
    return end


def _aligned(offset: int, alignment: int) -> int:
    if alignment > _MOST_ALIGNMENT:
        raise UnknownObjectError(f"an alignment of {alignment} bytes")
    return -(-offset // max(alignment, 1)) * max(alignment, 1)


def _linked(pages: Pages, found: _Object, places: Mapping[int, int], entry: str) -> int:
    """Write an object to its places; the address of its function `entry`."""

    def address(index: int) -> int:
        """Of a symbol, in memory."""
        symbol = found.symbols[index]
        section, value = int(symbol["section"]), int(symbol["value"])
        if section == _ABSOLUTE:
            return value
        if section == _UNDEFINED:
            return _of_process(found.name(index))
        place = places.get(-1 - index if section == _COMMON else section)
        if place is None:
            raise UnknownObjectError(f"symbol {index} in section {section}, which has no place in memory")
        return pages.address + place + (0 if section == _COMMON else value)

    parts = {index: bytearray() for index in places if index >= 0}
    for index in parts:
        section = found.sections[index]
        parts[index] = bytearray(b"" if section["type"] == _NOBITS else _content(found.content, section))
    for section in found.sections[found.sections["type"] == _RELA]:
        part = parts.get(int(section["info"]))
        if part is None:
            continue  # of debugging and unwind tables
        start = pages.address + places[int(section["info"])]
        for offset, kind, symbol, addend in np.frombuffer(
            _content(found.content, section), _RELOCATION
        ).tolist():
            value = address(symbol) + addend
            if kind == _64:
                struct.pack_into("<Q", part, offset, value % (1 << 64))
            elif kind == _PC64:
                struct.pack_into("<q", part, offset, value - start - offset)
            elif kind in (_PC32, _PLT32):
                struct.pack_into("<i", part, offset, value - start - offset)
            else:
                raise UnknownObjectError(f"a relocation of type {kind}")
    functions = [
        index
        for index in np.flatnonzero(found.symbols["section"] != _UNDEFINED).tolist()
        if found.name(index) == entry
    ]
    if len(functions) != 1:
        raise UnknownObjectError(f"no function {entry}, or several")
    section = found.sections[int(found.symbols[functions[0]]["section"])]
    if not int(section["flags"]) & _FLAG_CODE:  # NumPy 1 has no integer for uint64 & int
        raise UnknownObjectError(f"no function {entry}")
    for index, part in parts.items():
        pages.write(places[index], bytes(part))
    return address(functions[0])


def _of_process(name: str) -> int:
    """Address of a function that this process has loaded, of the C library."""
    try:
        function = ctypes.CDLL(None)[name]
    except (AttributeError, ValueError) as error:
        raise UnknownObjectError(f"a function {name!r} of elsewhere") from error
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def link_by_llvm(code: bytes, name: str) -> tuple[Any, int]:
    """(what keeps the machine code in memory, address of the function `name`) of any object file of this system."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    if not address:
        raise RuntimeError(f"the machine code lacks its entry point {name}")
    return engine, address
