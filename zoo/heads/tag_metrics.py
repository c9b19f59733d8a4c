"""Running figures of labels of words, and of the spans that BIO labels make.

Letters: B texts, N positions, P words with a label.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import TagTarget
from zoo.structs import Prediction, Targets


class TagMetrics:
    """``accuracy`` of words; for BIO labels ``precision``, ``recall`` and ``f1`` of spans (micro), as seqeval counts them
    (https://github.com/chakki-works/seqeval): I after another kind, or after O, begins a span too.

    Args:
        target: its labels.
    """

    def __init__(self, target: TagTarget) -> None:
        self.target = target
        self.sums = torch.zeros(5, dtype=torch.int64)  # words, right ones; spans told, there, right
        self.begins = torch.tensor([label.startswith("B-") for label in target.labels])
        self.inside = torch.tensor([label.startswith("I-") for label in target.labels])
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(label.partition("-")[2] for label in target.labels))}
        self.kinds = torch.tensor([kinds[label.partition("-")[2]] for label in target.labels])

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        wanted = targets[self.target.name].cpu()
        asked = valid.cpu()[:, None] & (wanted != self.target.ignore_index)
        told, there = prediction["logits"].detach().argmax(dim=-1).cpu()[asked], wanted[asked]  # P
        row = asked.nonzero()[:, 0]
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = row[1:] != row[:-1]
        sums = [torch.tensor(len(told)), (told == there).sum()]
        if self.target.bio:
            (begin, kind, end), (begin_there, kind_there, end_there) = self.spans(told, first), self.spans(there, first)
            right = begin & begin_there & (kind == kind_there) & (end == end_there)
            sums += [begin.sum(), begin_there.sum(), right.sum()]
        else:
            sums += [torch.tensor(0)] * 3
        self.sums += torch.stack(sums)

    def spans(self, labels: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether a span begins at each of P words, of which kind it is, and where it ends."""
        begins, inside, kind = self.begins[labels], self.inside[labels], self.kinds[labels]
        part = begins | inside
        follows = torch.zeros_like(part)
        follows[1:] = part[:-1] & (kind[1:] == kind[:-1]) & ~first[1:]
        begin = begins | (inside & ~follows)
        border = begin | ~part | first
        places = torch.arange(len(labels) + 1)
        borders = torch.cat([places[:-1][border], places[-1:]])
        return begin, kind, borders[torch.searchsorted(borders, places[:-1], right=True)] if len(labels) else places[:-1]

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        words, right, told, there, found = self.sums.tolist()
        figures = {"accuracy": right / words if words else float("nan")}
        if self.target.bio:
            precision, recall = found / told if told else 0.0, found / there if there else 0.0
            figures |= {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall) if found else 0.0}
        return figures

    def tables(self) -> dict[str, Any]:
        return {}
