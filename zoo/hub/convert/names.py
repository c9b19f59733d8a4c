"""Tables of names: which tensor of a foreign layout is which of zoo's. One table serves both directions, so that leaving is as easy as coming.

    RULES = (Same("embedding.weight", "embeddings.word_embeddings.weight"), *blocks(depth, Stacked(...), *layer("blocks.{n}.mlp.fc1", ...)))

Letters: D width, H heads, E width of a head, C channels, P side of a patch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from zoo.errors import CheckpointError, near
from zoo.layers.attention import split_heads, stack_heads

State = dict[str, Tensor]
MAX_DEPTH = 1000
"""Blocks; the table of a config that asks for 2**50 would never be finished."""


class Rule(Protocol):
    """Some tensors of each side, and the way between them."""

    @property
    def ours(self) -> tuple[str, ...]: ...

    @property
    def theirs(self) -> tuple[str, ...]: ...

    def read(self, theirs: Mapping[str, Tensor]) -> State:
        """Foreign tensors, by their names, as zoo's."""

    def write(self, ours: Mapping[str, Tensor]) -> State:
        """The way back."""

    def at(self, place: int) -> "Rule":
        """The rule of one block: ``{n}`` is its number."""


@dataclass(frozen=True)
class One:
    """One tensor for one.

    Args:
        our: its name in zoo.
        their: in the foreign layout.
        to_ours: how its values change; None where they do not.
        to_theirs: the way back.
    """

    our: str
    their: str
    to_ours: Callable[[Tensor], Tensor] | None = None
    to_theirs: Callable[[Tensor], Tensor] | None = None

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.our,)

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.their,)

    def read(self, theirs: Mapping[str, Tensor]) -> State:
        value = theirs[self.their]
        return {self.our: value if self.to_ours is None else self.to_ours(value)}

    def write(self, ours: Mapping[str, Tensor]) -> State:
        value = ours[self.our]
        return {self.their: value if self.to_theirs is None else self.to_theirs(value)}

    def at(self, place: int) -> "One":
        return replace(self, our=self.our.format(n=place), their=self.their.format(n=place))


@dataclass(frozen=True)
class Stacked:
    """Queries, keys and values: one matrix in zoo, its rows by head, so that a contiguous part of it is a whole number of heads.

    Args:
        our: name of the one.
        parts: foreign names of the three, or of one matrix of queries, then keys, then values (where each key has one query).
        heads: H, of keys and values.
        shared: queries for each key.
    """

    our: str
    parts: tuple[str, ...]
    heads: int
    shared: int = 1

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.our,)

    @property
    def theirs(self) -> tuple[str, ...]:
        return self.parts

    def read(self, theirs: Mapping[str, Tensor]) -> State:
        given = [theirs[name] for name in self.parts]
        query, key, value = given if len(given) == 3 else given[0].chunk(3)
        if key.shape != value.shape or query.shape[1:] != key.shape[1:] or query.shape[0] != self.shared * key.shape[0]:
            raise ValueError(f"{self.shared} x as many rows of queries as of keys and of values are needed")
        return {self.our: stack_heads(query, key, value, self.heads)}

    def write(self, ours: Mapping[str, Tensor]) -> State:
        parts = split_heads(ours[self.our], self.heads, self.shared)
        return {name: part.contiguous() for name, part in zip(self.parts, parts, strict=True)} if len(self.parts) == 3 else {self.parts[0]: torch.cat(parts)}

    def at(self, place: int) -> "Stacked":
        return replace(self, our=self.our.format(n=place), parts=tuple(name.format(n=place) for name in self.parts))


@dataclass(frozen=True)
class Interleaved:
    """Several matrices as one whose rows take turns, so that a contiguous part of it has the same share of each: keys and values by head, a gate and what
    it opens by hidden unit.

    Args:
        our: name of the one.
        parts: foreign names, in the order in which they take turns.
        groups: turns; heads, or hidden units.
    """

    our: str
    parts: tuple[str, ...]
    groups: int

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.our,)

    @property
    def theirs(self) -> tuple[str, ...]:
        return self.parts

    def read(self, theirs: Mapping[str, Tensor]) -> State:
        return {self.our: torch.stack([theirs[name].unflatten(0, (self.groups, -1)) for name in self.parts], dim=1).flatten(0, 2)}

    def write(self, ours: Mapping[str, Tensor]) -> State:
        parts = ours[self.our].unflatten(0, (self.groups, len(self.parts), -1)).unbind(1)
        return {name: part.flatten(0, 1).contiguous() for name, part in zip(self.parts, parts, strict=True)}

    def at(self, place: int) -> "Interleaved":
        return replace(self, our=self.our.format(n=place), parts=tuple(name.format(n=place) for name in self.parts))


def layer(our: str, their: str, *kinds: str) -> list[One]:
    """Weight and bias of a layer."""
    return [One(f"{our}.{kind}", f"{their}.{kind}") for kind in kinds or ("weight", "bias")]


def stacked(our: str, parts: Sequence[str], heads: int, *kinds: str, shared: int = 1) -> list[Stacked]:
    """Weight and bias of the projections to queries, keys and values.

    Args:
        our: zoo's layer.
        parts: their layers, one or three.
        heads: of keys and values.
        kinds: of tensors; weight and bias.
        shared: queries for each key.
    """
    return [Stacked(f"{our}.{kind}", tuple(f"{part}.{kind}" for part in parts), heads, shared) for kind in kinds or ("weight", "bias")]


def interleaved(our: str, parts: Sequence[str], groups: int, *kinds: str) -> list[Interleaved]:
    """Weight and bias of layers that are one in zoo."""
    return [Interleaved(f"{our}.{kind}", tuple(f"{part}.{kind}" for part in parts), groups) for kind in kinds or ("weight", "bias")]


def blocks(depth: int, rules: Iterable[Rule]) -> list[Rule]:
    """The rules of one block for each of them.

    Raises:
        CheckpointError: for more blocks than any network has.
    """
    if depth > MAX_DEPTH:
        raise CheckpointError(f"its config asks for {depth:.4g} blocks, and zoo reads up to {MAX_DEPTH}: no such network is known, the config is damaged")
    rules = list(rules)
    return [rule.at(place) for place in range(depth) for rule in rules]


def patches(our: str, their: str, size: int) -> list[One]:
    """A convolution with kernel and stride P as a linear map of pixels, D C P P and D (C P P)."""

    def to_ours(weight: Tensor) -> Tensor:
        if weight.dim() != 4 or weight.shape[2:] != (size, size):
            raise ValueError(f"kernels of shape [D, C, {size}, {size}] are needed")
        return weight.flatten(1)

    def to_theirs(weight: Tensor) -> Tensor:
        return rearrange(weight, "d (c p q) -> d c p q", p=size, q=size)

    return [One(f"{our}.weight", f"{their}.weight", to_ours, to_theirs), One(f"{our}.bias", f"{their}.bias")]


def squeezed(our: str, their: str) -> One:
    """A table N D that the foreign layout keeps as 1 N D."""

    def to_ours(table: Tensor) -> Tensor:
        if table.dim() != 3 or table.shape[0] != 1:
            raise ValueError("a table of shape [1, N, D] is needed")
        return table[0]

    return One(our, their, to_ours, lambda table: table[None])


def read_all(rules: Sequence[Rule], tensors: Mapping[str, Tensor], *, unused: Mapping[str, str], where: Any) -> tuple[State, dict[str, str]]:
    """Foreign tensors as zoo's, strictly: each is used, or its name begins with one of ``unused``.

    Args:
        rules: of the architecture.
        tensors: of the file.
        unused: beginnings of names that are left out, and why.
        where: the file, for messages.

    Returns:
        The state, and what became of every foreign tensor: the name of zoo's, or why it is not used.

    Raises:
        CheckpointError: naming every tensor that is missing, or that nothing takes; or those whose shapes do not go together.
    """
    state: State = {}
    report: dict[str, str] = {}
    missing: list[str] = []
    for rule in rules:
        if absent := [name for name in rule.theirs if name not in tensors]:
            missing += absent
            continue
        state |= _read(rule, tensors, where)
        report |= dict.fromkeys(rule.theirs, ", ".join(rule.ours))
    left = [name for name in tensors if name not in report]
    for name in left:
        reason = next((why for prefix, why in unused.items() if name == prefix or name.startswith(prefix)), None)
        if reason is not None:
            report[name] = f"not used: {reason}"
    strange = [name for name in left if name not in report]
    if missing or strange:
        lines = [f"  missing: {name}" + (f" (renamed to {close[0]}?)" if (close := near(name, strange, limit=1)) else "") for name in missing]
        lines += [f"  unexpected: {name} {list(tensors[name].shape)}" for name in strange]
        more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise CheckpointError(f"{where}: {len(lines)} tensors are not those of the architecture that its config describes\n" + "\n".join(lines[:20]) + more)
    return state, report


def _read(rule: Rule, tensors: Mapping[str, Tensor], where: Any) -> State:
    try:
        return rule.read(tensors)
    except Exception as error:  # torch's and einops' own, for shapes that a file is free to have
        given = ", ".join(f"{name} {list(tensors[name].shape)}" for name in rule.theirs)
        raise CheckpointError(f"{where}: {given}: no {', '.join(rule.ours)} can be made of that: {' '.join(str(error).split())[:200]}") from error


def write_all(rules: Sequence[Rule], state: Mapping[str, Tensor]) -> State:
    """zoo's tensors in the foreign layout; every one of them has to have a place there.

    Raises:
        CheckpointError: for tensors that the foreign layout has no place for.
    """
    tensors: State = {}
    for rule in rules:
        tensors |= rule.write(state)
    covered = {name for rule in rules for name in rule.ours}
    if left := sorted(set(state) - covered):
        raise CheckpointError(f"the foreign layout has no place for {', '.join(left[:8])}{' ...' if len(left) > 8 else ''}")
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
