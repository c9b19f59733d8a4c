"""What a user met so far, and the item that follows: identifiers of a catalogue.

The history's codec owns the catalogue and the known users' histories, so that a raw user id can be asked for; the target's codec
shares them. What is unseen has a stated answer: unknown items are left out of a history, and an unknown user, or a history without any
known item, is answered with the items that most training users met.

Letters: N positions, I items.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.base import Encoded
from zoo.data.codecs.state import list_of, strict
from zoo.errors import CheckpointError, DataError
from zoo.specs import HistoryInput, ItemTarget
from zoo.structs import Values


class Catalogue:
    """Items 1 .. I by their raw ids, and what is known of users.

    Args:
        items: raw ids; the first is item 1.
        titles: for people, one an item, or none.
        popular: items by falling number of training users that met them.
        users: raw user id -> the items that the user met, oldest first.
    """

    def __init__(
        self, *, items: Sequence[str], titles: Sequence[str] = (), popular: Sequence[int] = (), users: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.items, self.titles, self.popular, self.users = list(items), list(titles), list(popular), dict(users or {})
        self.numbers = {raw: number for number, raw in enumerate(self.items, 1)}

    def history(self, raw: Any) -> list[int]:
        """Identifiers of a raw history (a list of raw item ids) or of a known user (a raw user id).

        Raises:
            DataError: for an unknown user, or where no item is known.
        """
        if isinstance(raw, str | int) and not isinstance(raw, bool):
            if str(raw) not in self.users:
                raise DataError(f"user {str(raw)!r} does not occur in the training data")
            return list(self.users[str(raw)])
        if not isinstance(raw, list | tuple):
            raise DataError(f"a history is a list of item ids, or a user's id, not {type(raw).__name__}")
        known = [self.numbers[str(item)] for item in raw if str(item) in self.numbers]
        if not known:
            raise DataError(f"none of the {len(raw)} items of the history occurs in the training data" if raw else "the history is empty")
        return known

    def unseen(self, raw: Any) -> list[str]:
        """Raw item ids of a history that the catalogue does not have."""
        return [str(item) for item in raw if str(item) not in self.numbers] if isinstance(raw, list | tuple) else []

    def name(self, item: int) -> dict[str, str]:
        """``{"item": raw id, "title": ...}``."""
        named = {"item": self.items[item - 1]}
        return named | {"title": self.titles[item - 1]} if self.titles else named


class HistoryCodec:
    """Raw history -> identifiers, the newest ``max_length`` of them.

    Args:
        name: of the input.
        catalogue: items and known users.
        max_length: positions at most; older ones are cut off.
    """

    kind: ClassVar[str] = "history"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = 0

    def __init__(self, *, name: str, catalogue: Catalogue, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"max_length={max_length} positions; 1 or more")
        self.name, self.catalogue, self.max_length = name, catalogue, max_length
        self.spec = HistoryInput(name=name, vocab_size=len(catalogue.items) + 1, max_length=max_length)

    def encode(self, raw: Any) -> Encoded:
        """A list of raw item ids, a known user's raw id, or identifiers as a tensor -> N."""
        values = raw if isinstance(raw, Tensor) else torch.tensor(self.catalogue.history(raw))
        return {"values": values[-self.max_length :]}

    def finish(self, values: Values) -> Values:
        return values

    def state(self) -> dict[str, Any]:
        catalogue = self.catalogue
        users = {user: list(items) for user, items in catalogue.users.items()}
        return {"max_length": self.max_length, "items": catalogue.items, "titles": catalogue.titles, "popular": catalogue.popular, "users": users}

    def save_files(self, folder: Path) -> None:
        pass

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "HistoryCodec":  # noqa: ARG003
        strict(state, name, max_length=int, items=list, titles=list, popular=list, users=dict)
        items, titles = list_of(state["items"], str, f"{name}.items"), list_of(state["titles"], str, f"{name}.titles")
        numbers = {f"{name}.popular": state["popular"], **{f"{name}.users.{user}": history for user, history in state["users"].items()}}
        if len(set(items)) != len(items) or len(titles) not in (0, len(items)):
            raise CheckpointError(f"processor.json: {name} has {len(items)} items ({len(set(items))} different) and {len(titles)} titles")
        for what, values in numbers.items():
            if any(not 1 <= value <= len(items) for value in list_of(values, int, what)):
                raise CheckpointError(f"processor.json: {what} names items outside 1 .. {len(items)}")
        catalogue = Catalogue(items=items, titles=titles, popular=state["popular"], users=state["users"])
        return cls(name=name, catalogue=catalogue, max_length=state["max_length"])


class ItemCodec:
    """The item that follows each position of a history, and the items that a ranking leaves out.

    Args:
        name: of the target.
        catalogue: the history's.
        history: the history input's name.
        max_length: of the history.
    """

    kind: ClassVar[str] = "item"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = 0

    def __init__(self, *, name: str, catalogue: Catalogue, history: str, max_length: int) -> None:
        self.name, self.catalogue, self.history, self.max_length = name, catalogue, history, max_length
        self.spec = ItemTarget(name=name, num_items=len(catalogue.items))

    def encode(self, raw: Any) -> Encoded:
        """``{"next": N, "seen": S}``, identifiers as tensors or lists: 0 where there is nothing to predict, aligned with the history."""
        following, seen = (torch.as_tensor(raw[key], dtype=torch.int64) for key in ("next", "seen"))
        return {"values": following[-self.max_length :], self.spec.seen: seen}

    def ask(self, row: Mapping[str, Any]) -> Encoded:
        """What a ranking for a raw history leaves out: everything in it."""
        return {self.spec.seen: torch.tensor(sorted(set(self.catalogue.history(row[self.history]))), dtype=torch.int64)}

    def present(self, answer: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """An answer for people: item numbers under ``top`` as raw ids and titles, and a note on what was unseen."""
        top = [{**entry, **self.catalogue.name(entry["item"])} for entry in answer["top"]]
        unseen = self.catalogue.unseen(row[self.history])
        note = {"note": f"left out, since they do not occur in the training data: {', '.join(unseen)}"} if unseen else {}
        return {**answer, "top": top, **note}

    def fallback(self, reason: str, top_k: int) -> dict[str, Any]:
        """The stated answer where nothing is known of the user: what most training users met."""
        top = [self.catalogue.name(item) for item in self.catalogue.popular[:top_k]]
        return {"top": top, "note": f"{reason}; these are the items that most training users met"}

    def state(self) -> dict[str, Any]:
        return {"history": self.history}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "ItemCodec":  # noqa: ARG003
        strict(state, name, history=str)
        return cls(name=name, catalogue=Catalogue(items=[]), history=state["history"], max_length=1)

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Share the catalogue of the history that the state names."""
        codec = inputs.get(self.history)
        if not isinstance(codec, HistoryCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} follows the history {self.history!r}, which is no history among the inputs")
        self.catalogue, self.max_length = codec.catalogue, codec.max_length
        self.spec = ItemTarget(name=self.name, num_items=len(codec.catalogue.items))
