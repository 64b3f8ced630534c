"""From a file to a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_icnet import bundled, formats, kept_plans
from sparse_icnet.arguments import checked_size, checked_threads
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import Model
from sparse_icnet.plan.arena import Arena
from sparse_icnet.plan.kept import UnknownContentError, restored
from sparse_icnet.processes import Once, default_threads

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Graph, Size
    from sparse_icnet.plan.program import Plan


def load(
    path: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    threads: int | None = None,
    class_names: Sequence[str] | None = None,
    output: str | None = None,
    bgr: bool = False,
) -> Model:
    """Load a network.

    path     native .npz, OpenVINO IR (.xml) or ONNX file; the name of a bundled model
             (`sparse_icnet.bundled.names()`); None: the default bundled weights, DEFAULT_WEIGHTS
    size     (height, width) of the network input, multiples of 32 for ICNet; None: as the file says, and 768x960
             where it leaves them free (`Graph.size_is_free`); the bundled weights say 768x960
    threads  of one inference; None: one for each core this process may use
    class_names  one for each class; None: as the file says, else those of CamVid for 12 classes, else "class 0" ...
    output   name of the output to compute, of a file with several, such as a network with auxiliary heads
    bgr      whether the file expects pictures as blue, green, red, as OpenCV reads them: only an .npz can say so by itself.
             Pictures stay RGB for `segment` and `predict`; `net(blob)` keeps the order of the file

    Bundled files are checked against their digests.  Of a native file whose plan an earlier process kept
    (`sparse_icnet.kept_plans`) neither network nor plan are made before they are asked for.  Raises OSError for a file that
    cannot be read, FormatError (a ValueError) for one that is not a model or that the engine cannot run, ValueError for an
    impossible size or threads.
    """
    asked, threads = _Asked.of(path, size, output, bgr), checked_threads(threads)
    name = asked.name(threads)
    model = None if name is None else _kept(name, asked, threads, class_names)
    if model is None:
        model = _planned(asked, threads, class_names)
        if name is not None and kept_plans.is_wanted(name):
            _keep(name, model, asked.file)
    model.path, model.asked_size, model.output_name, model.bgr = asked.file.resolve(), asked.size, output, bgr
    return model


def keep_plan(
    path: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    threads: int | None = None,
    output: str | None = None,
    bgr: bool = False,
) -> Path:
    """Have the plan of a native file kept now, for processes that `load` it with these arguments; the file of the plan.

    Raises what `load` raises, ValueError for a file of another format and where plans are not kept, OSError where no folder
    can keep it.
    """
    asked, threads = _Asked.of(path, size, output, bgr), checked_threads(threads)
    name = asked.name(threads)
    if name is None:
        formats.kind(asked.file)  # raises what is wrong with a file that is no model
        raise ValueError(
            f"{asked.file}: expected a native file (.npz) and {kept_plans.SWITCH} not to be 0, for a plan to be kept"
        )
    if _kept(name, asked, threads, None) is None:
        _keep(name, _planned(asked, threads, None), asked.file)
    found = kept_plans.place(name)
    if found is None:
        raise OSError(f"{asked.file}: expected a folder that can keep its plan, found none")
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model file and how it was asked for; `content`, `digest`: its bytes and their SHA-256 if it is a native one."""

    file: Path
    content: bytes | None
    output: str | None
    size: Size | None
    bgr: bool
    digest: str | None

    @classmethod
    def of(
        cls, path: str | os.PathLike[str] | None, size: Size | None, output: str | None, bgr: bool
    ) -> _Asked:
        """The file that `path` means, read if it is a native one, and checked if it is bundled."""
        file = bundled.resolve(path)
        content = formats.native_content(file)
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        bundled.check_digest(file, digest)
        return cls(file, content, output, None if size is None else checked_size(size), bgr, digest)

    def name(self, threads: int | None) -> str | None:
        """Of the plan, where one can be kept."""
        if self.digest is None or not kept_plans.are_kept():
            return None
        try:
            return kept_plans.key(self.digest, self.output, self.size, self.bgr, threads or default_threads())
        except OSError as error:
            kept_plans.tell("plans are not kept: %s", error)
            return None

    def stated(self) -> Graph:
        """The network of the size that the file states."""
        return formats.load(self.file, self.output, self.content)

    def graph(self, stated: Graph | None = None) -> Graph:
        """The network as it was asked for, of what is `stated`."""
        from sparse_icnet.network.bgr import for_rgb
        from sparse_icnet.network.graph import GraphError, resized

        graph = self.stated() if stated is None else stated
        if self.size is not None:
            graph = resized(graph, self.size)
        try:
            return for_rgb(graph) if self.bgr and not graph.faces.input.bgr else graph
        except GraphError as error:
            raise FormatError(f"{self.file}: {error}") from error


def _planned(asked: _Asked, threads: int | None, class_names: Sequence[str] | None) -> Model:
    from sparse_icnet.network.graph import GraphError
    from sparse_icnet.plan import PlanError

    stated = asked.stated()
    graph = asked.graph(stated)
    try:
        model = Model(graph, threads, class_names)
    except (GraphError, PlanError) as error:
        raise FormatError(f"{asked.file}: {error}") from error
    model.stated_size = None if stated.size_is_free else stated.input.shape[1:]
    return model


def _kept(name: str, asked: _Asked, threads: int | None, class_names: Sequence[str] | None) -> Model | None:
    """The model whose plan is kept as `name`; None if none is."""
    arena = Arena()
    content = kept_plans.find(name, arena.take)
    if content is None:
        return None
    graph = Once(asked.graph)
    whole = Once(partial(_plan, graph, threads or default_threads()))
    try:
        plan = restored(arena, content, whole.get)
    except UnknownContentError as error:
        kept_plans.tell("kept plan not used: %s", error)
        return None
    names, stated = tuple(plan.facts["class_names"]), plan.facts["stated_size"]
    if class_names is not None:
        from sparse_icnet.network.meta import checked_class_names

        names = checked_class_names(class_names, len(names))
    model = Model.of_kept(plan, graph, whole, threads, names)
    model.stated_size = None if stated is None else (stated[0], stated[1])
    model.known_digest = plan.facts["digest"]
    return model


def _plan(graph: Once[Graph], threads: int) -> Plan:
    from sparse_icnet.plan import plan_for

    return plan_for(graph.get(), threads)


def _keep(name: str, model: Model, file: Path) -> None:
    """Keep the plan of a model for later processes, if it can be kept."""
    from sparse_icnet.network.class_names import class_names_of
    from sparse_icnet.network.graph import GraphError
    from sparse_icnet.plan.keep import ImmovableError, kept_form

    try:
        facts = {
            "class_names": class_names_of(model.graph),
            "stated_size": model.stated_size,
            "digest": model.digest,
        }
        kept_plans.keep(name, kept_form(model.plan, facts), public=bundled.name_of(file) is not None)
    except (
        GraphError,
        ImmovableError,
    ) as error:  # class names of the file that do not fit, others were given
        kept_plans.tell("plan not kept: %s", error)


def reloaded(
    path: str,
    size: Size | None,
    threads: int | None,
    class_names: tuple[str, ...],
    expected: str,
    output: str | None,
    bgr: bool,
) -> Model:
    """What a pickled model becomes: the same network from the same file, or FormatError."""
    model = load(path, size, threads, class_names, output, bgr)
    if (found := model.digest) != expected:
        raise FormatError(
            f"{model.path}: expected the network that was pickled (SHA-256 {expected}), found another one ({found})"
        )
    return model
