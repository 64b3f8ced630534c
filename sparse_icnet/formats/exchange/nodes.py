"""What every reader of an exchange format hands over: nodes of one small vocabulary, bounded and in any order.

A reader translates the operations of its format to entries of `operations.TABLE` and checks what only it can check
(syntax, sizes, identifiers).  Inputs have the names of the entry and attributes its dataclass, so no reader and no
converter counts positions.  One operation of a file may become several nodes.  `build` turns the nodes into a `Graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import Attributes, ConstantAttributes

MAX_NODES = 8192  # of a file
MAX_INPUTS = 64  # of one node
MAX_RANK = 8
MAX_NAME = 1024  # characters
MAX_ELEMENTS = 1 << 26  # of all constants of a file together, folded ones included

Key = Hashable  # names an output of a node; its own for each output in a file

A_co = TypeVar("A_co", bound=Attributes, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Node(Generic[A_co]):
    """One operation of a file.

    operation   name of an entry of `operations.TABLE`
    name        unique in the file
    where       "m.xml: layer 41 'conv4_1/reduce'", the start of every error message
    outputs     key of each output
    attributes  an instance of the entry's dataclass
    inputs      name of the input -> key of the output that it reads; absent optional inputs have no name here
    declared    output shapes as the file states them, None where it does not; negative sizes are free
    """

    operation: str
    name: str
    where: str
    outputs: tuple[Key, ...]
    attributes: A_co
    inputs: Mapping[str, Key] = field(default_factory=dict)
    declared: tuple[tuple[int, ...] | None, ...] = ()


AnyNode = Node[Attributes]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One output of the network: its name in the file, the start of messages about it, and what it returns.

    dtype  as the file declares it, its name in NumPy, or another; "" where it says nothing
    """

    name: str
    where: str
    source: Key
    dtype: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """`label` (the path, for messages), nodes in any order, and the outputs of the network in order."""

    label: str
    nodes: tuple[AnyNode, ...]
    results: tuple[Result, ...]


NO_ATTRIBUTES = Attributes()


class FileNode:
    """One operation of a file on its way to nodes of the table; the readers add what is special to a format.

    type      the operation's name in its format
    where     start of messages
    inputs    what it reads, in the order of the file; None for an absent optional input
    """

    def __init__(
        self,
        type: str,
        name: str,
        where: str,
        inputs: Sequence[Key | None],
        outputs: Sequence[Key],
        declared: tuple[tuple[int, ...] | None, ...],
        add: Callable[[AnyNode], None],
    ) -> None:
        self.type, self.name, self.where = type, name, where
        self.inputs, self.declared = list(inputs), declared
        self._outputs, self._add = tuple(outputs), add
        self._inner = 0

    def named(self, *names: str | None) -> dict[str, Key]:
        """The inputs by the names of the table, given in the order of the file; None for one that is not needed."""
        if len(self.inputs) > len(names):
            raise FormatError(
                f"{self.where}: expected at most {len(names)} inputs of {self.type}, found {len(self.inputs)}"
            )
        pairs = zip(names, self.inputs, strict=False)
        return {name: source for name, source in pairs if name is not None and source is not None}

    def gives(
        self, operation: str, inputs: Mapping[str, Key], attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """The outputs are those of `operation`."""
        node = Node(operation, self.name, self.where, self._outputs, attributes, inputs, self.declared)
        self._add(node)

    def inner(self, operation: str, inputs: Mapping[str, Key], attributes: Attributes = NO_ATTRIBUTES) -> Key:
        """An operation between inputs and outputs; the key of its output."""
        self._inner += 1
        key = (self.name, self._inner)
        self._add(Node(operation, f"{self.name}/{self._inner}", self.where, (key,), attributes, inputs))
        return key

    def constant(self, value: NDArray[Any]) -> Key:
        """A constant that the operation states as an attribute."""
        return self.inner("constant", {}, ConstantAttributes(value))


def definitions(model: Model) -> dict[Key, tuple[int, int]]:
    """Key -> (index of the node in `model.nodes`, index of its output)."""
    return {
        key: (index, port) for index, node in enumerate(model.nodes) for port, key in enumerate(node.outputs)
    }


def in_order(model: Model, result: Key) -> list[int]:
    """Indices of the nodes that `result` needs, each after its inputs.

    Raises FormatError for a cycle anywhere in the file, and for an input that nothing defines.
    """
    defined = definitions(model)
    sources: list[list[int]] = []
    for node in model.nodes:
        unknown = next((key for key in node.inputs.values() if key not in defined), None)
        if unknown is not None:
            raise FormatError(f"{node.where}: reads {str(unknown)[:80]!r}, which nothing defines")
        sources.append([defined[key][0] for key in node.inputs.values()])
    readers: list[list[int]] = [[] for _ in model.nodes]
    for index, needed in enumerate(sources):
        for source in needed:
            readers[source].append(index)
    missing = [len(needed) for needed in sources]
    order: list[int] = [index for index, count in enumerate(missing) if count == 0]
    for index in order:  # grows while it is read
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                order.append(reader)
    if len(order) < len(model.nodes):
        stuck = next(node for node, count in zip(model.nodes, missing, strict=True) if count)
        raise FormatError(
            f"{stuck.where}: expected a graph without cycles, found this layer in or behind one"
        )
    wanted = {defined[result][0]}
    for index in reversed(order):
        if index in wanted:
            wanted.update(sources[index])
    return [index for index in order if index in wanted]


class UniqueNames:
    """Hands out names: the wanted one if it is free, else with #2, #3, ... behind it."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next: dict[str, int] = {}

    def __call__(self, wanted: str) -> str:
        name = wanted
        while name in self._used:
            self._next[wanted] = self._next.get(wanted, 1) + 1
            name = f"{wanted}#{self._next[wanted]}"
        self._used.add(name)
        return name


def checked_name(name: str, where: str) -> str:
    """`name`, if it is printable text, else FormatError (protobuf gives bytes for text that is not UTF-8)."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise FormatError(
            f"{where}: expected a printable name of at most {MAX_NAME} characters, found {name[:40]!r}..."
        )
    return name
