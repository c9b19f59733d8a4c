"""Targets without a label: which rows are of one thing."""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.errors import DataError
from zoo.specs import PairTarget


class PairCodec:
    """A value that rows of one thing share, as 64 bits of its hash: nothing is fitted, and unknown values are as good as known ones.

    Args:
        name: of the target.
    """

    kind: ClassVar[str] = "pair"
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(self, *, name: str) -> None:
        self.spec = PairTarget(name=name)

    def encode(self, raw: Any) -> Encoded:
        if is_missing(raw):
            raise DataError(f"target {self.spec.name!r} is empty, so that nobody knows which rows it goes with")
        digest = blake2b(str(raw).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return {"values": torch.tensor(int.from_bytes(digest, "little", signed=True))}

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "PairCodec":  # noqa: ARG003
        strict(state, name)
        return cls(name=name)
