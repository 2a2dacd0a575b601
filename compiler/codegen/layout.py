"""Where a region's modules live: a tree of named parts, from the paths of its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from modnorm.graph.dataflow import Apply, Loop, Recurrence, Region
from modnorm.graph.paths import last_copy
from modnorm.ops.base import Weighted


@dataclass(eq=False)
class Part:
    """A named part: what stands in it, by name, in execution order."""

    path: str
    children: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Held:
    """A module that a part holds: of one operation, or of atoms that are stored together."""

    value: Apply

    @property
    def op(self) -> Weighted:
        """What the module is of."""
        assert isinstance(self.value.called, Weighted)
        return self.value.called


@dataclass(frozen=True, eq=False)
class Copies:
    """The copies of a repetition, which stand in a part under their indices plus `suffix`."""

    loop: Loop
    suffix: str


Node: TypeAlias = Part | Held | Copies


def is_list(node: Node) -> bool:
    """Whether a part is nothing but one repetition: then it is an `nn.ModuleList`."""
    if not isinstance(node, Part) or len(node.children) != 1:
        return False
    only = next(iter(node.children.values()))
    return isinstance(only, Copies) and not only.suffix


@dataclass(frozen=True, eq=False)
class Layout:
    """What a region's class holds, and what it borrows from the model around it.

    `borrowed` maps paths of shared modules and repetitions, which live at the model's root, to what
    stands there; None where only a reader of the weight has been seen.
    """

    prefix: str
    root: Part
    borrowed: dict[str, Node | None]

    def owns(self, path: str) -> bool:
        return not self.prefix or path.startswith(self.prefix + ".")


def has_modules(loop: Loop) -> bool:
    """Whether a repetition has modules of its own, which need a place."""
    return any(
        a.op.is_module and a.path.startswith(run.path + ".")
        for run in loop.runs
        for a in run.region.applies()
    )


def layout(region: Region, prefix: str) -> Layout:
    """The parts of a region whose copies have path `prefix`; `""` for the model itself."""
    found = Layout(prefix, Part(prefix), {})

    def hold(path: str, node: Node | None) -> None:
        if found.owns(path):
            if node is not None:
                _insert(found.root, path, node)
        elif found.borrowed.get(path) is None:
            found.borrowed[path] = node

    def visit(region: Region) -> None:
        for number in region.numbers():
            value = region[number]
            if isinstance(value, Apply) and value.op.is_module:
                hold(value.holder, Held(value))
            elif isinstance(value, Apply) and value.weight is not None:
                hold(value.weight, None)
            elif isinstance(value, Loop) and has_modules(value):
                for run in value.runs:  # shared parts first, as in the plan
                    for path, node in layout(run.region, run.path).borrowed.items():
                        hold(path, node)
                path = value.runs[0].path
                last = last_copy(path)
                assert last is not None, path
                hold(path, Copies(value, last.suffix))
            elif isinstance(value, Loop):
                for run in value.runs:
                    visit(run.region)
            elif isinstance(value, Recurrence):
                visit(value.region)

    visit(region)
    return found


def _insert(root: Part, path: str, node: Node) -> None:
    prefix = f"{root.path}." if root.path else ""
    names = path.removeprefix(prefix).split(".")
    at = root
    for depth, name in enumerate(names[:-1]):
        child = at.children.setdefault(name, Part(prefix + ".".join(names[: depth + 1])))
        assert isinstance(child, Part), path
        at = child
    at.children.setdefault(names[-1], node)
