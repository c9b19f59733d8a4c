"""A label with what a teacher says of the sample: the scores that it gives to every label."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded
from zoo.data.codecs.label import ClassCodec
from zoo.specs import ClassTarget, TaughtTarget


class TaughtCodec:
    """Single labels beside a teacher's scores.

    Args:
        labels: codec of the labels.
    """

    kind: ClassVar[str] = "taught"
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(self, *, labels: ClassCodec) -> None:
        self.labels, self.spec = labels, taught(labels.spec)

    def encode(self, raw: Any) -> Encoded:
        """``{"label", "scores"}`` -> ``{"values": (), "NAME_teacher": C}``. An unknown label is None: the teacher alone is learned from."""
        known = raw["label"] is not None and raw["label"] != ""
        values = self.labels.encode(raw["label"])["values"] if known else torch.tensor(self.spec.ignore_index)
        return {"values": values, self.spec.scores: raw["scores"]}

    def state(self) -> dict[str, Any]:
        return self.labels.state()

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "TaughtCodec":
        return cls(labels=ClassCodec.from_state(name, state, folder))


def taught(target: ClassTarget) -> TaughtTarget:
    """The same labels with a teacher's scores beside them."""
    return TaughtTarget(**asdict(target))
