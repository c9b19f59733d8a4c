"""Reading the JSON state of a codec: every key is known, present and of its type, or the bundle is refused."""

from collections.abc import Mapping
from typing import Any, TypeVar

from zoo.errors import CheckpointError, did_you_mean

T = TypeVar("T")


def strict(state: Mapping[str, Any], what: str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The values of a state, checked against ``types``; lists are checked by ``list_of``.

    Raises:
        CheckpointError: for a missing, unknown or mistyped key.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"processor.json: {what} is {type(state).__name__}, expected a mapping")
    for key in state:
        if key not in types:
            raise CheckpointError(f"processor.json: {what} has the unknown key {key!r}; {did_you_mean(str(key), types)}")
    for key, kind in types.items():
        if key not in state:
            raise CheckpointError(f"processor.json: {what} lacks {key!r}")
        value, kinds = state[key], kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(f"processor.json: {what}.{key} is {type(value).__name__}, expected {' or '.join(entry.__name__ for entry in kinds)}")
    return dict(state)


def list_of(values: Any, kind: type[T], what: str) -> list[T]:
    """A list whose entries are all of one type; integers pass for floats.

    Raises:
        CheckpointError: otherwise.
    """
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(values, list) or any(not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool) for value in values):
        raise CheckpointError(f"processor.json: {what} has to be a list of {kind.__name__}")
    return values
