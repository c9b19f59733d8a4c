"""Losses that compare rows with each other (contrastive ones), over the rows of the whole global batch, however ranks and micro-batches split it.

The loss depends on predictions alone, and predictions of a row on that row alone, so that the chain rule parts at the predictions (GradCache; Gao et
al., 2021, https://arxiv.org/abs/2101.06983): make all predictions, gather them, take the gradient with respect to each, and only then go back
through the model, one micro-batch at a time. With several micro-batches each is run forward twice, first without keeping its activations; dropout
is keyed by sample, so that both times it is the same. Every rank computes the whole loss, and of its gradient takes that of its own rows; ranks'
gradients of the parameters are summed as those of any other loss.

Letters: R rows of this rank, A those of all ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.random import SampleRandom, sample_randomness
from zoo.structs import Batch, Prediction

if TYPE_CHECKING:
    from zoo.training.step import TrainStep


class WholeBatch:
    """Forward and backward of a step whose head says ``whole_batch``.

    Args:
        owner: the step: its model, precision, loss scale and ranks.
    """

    def __init__(self, owner: "TrainStep") -> None:
        self.owner = owner

    def __call__(self, parts: list[Batch], step: int, counts: dict[str, float]) -> dict[str, Tensor]:
        """As ``TrainStep.passes``. Every rank has the whole sums; the first of those with other rows gives them, the rest give zeros."""
        if len(parts) == 1:
            kept = self.forward(parts[0], 0, step)
            made = [{name: value.detach() for name, value in kept.items()}]
        else:
            kept = None
            with torch.no_grad():
                made = [self.forward(part, place, step) for place, part in enumerate(parts)]
        sums, gradients = self.compare(made, parts, counts)
        del made
        begin = 0
        for place, part in enumerate(parts):
            self.owner.announce(last=place == len(parts) - 1)
            prediction = kept if kept is not None else self.forward(part, place, step)
            pairs = [(prediction[name], rows[begin : begin + part.size]) for name, rows in gradients.items() if prediction[name].requires_grad]
            with self.drawing(part, place, step):  # what is recomputed draws its dropout again
                torch.autograd.backward([value for value, _ in pairs], [rows for _, rows in pairs])
            self.owner.clock.mark("backward")
            begin += part.size
        return sums if self.owner.mesh.data.main else {name: torch.zeros_like(value) for name, value in sums.items()}

    def forward(self, part: Batch, place: int, step: int) -> Prediction:
        """Predictions of one micro-batch."""
        with self.drawing(part, place, step), self.owner.autocast:
            prediction: Prediction = self.owner.model(part.inputs)
        self.owner.clock.mark("forward")
        return prediction

    @contextmanager
    def drawing(self, part: Batch, place: int, step: int) -> Iterator[None]:
        """The randomness of a micro-batch, the same however often it is entered."""
        self.owner.reseed(step, place)
        with sample_randomness(SampleRandom(self.owner.seed, step, part.ids)):
            yield

    def compare(self, made: list[Prediction], parts: list[Batch], counts: dict[str, float]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss over all rows: its terms' sums, and by prediction the gradient R ... with respect to this rank's rows."""
        names, targets = list(made[0]), list(parts[0].targets)
        own = [torch.cat([prediction[name] for prediction in made]) for name in names]
        own += [torch.cat([part.targets[name] for part in parts]) for name in targets]
        valid = torch.cat([part.valid for part in parts])
        (*everything, all_valid), begin = self.owner.mesh.data.rows([*own, valid])  # A ...
        self.owner.clock.mark("communication")
        prediction = dict(zip(names, everything[: len(names)], strict=True))
        leaves = {name: value.requires_grad_() for name, value in prediction.items() if value.is_floating_point()}
        with torch.enable_grad(), self.owner.autocast:
            terms = self.owner.head.loss(prediction, dict(zip(targets, everything[len(names) :], strict=True)), all_valid)
        sums = {name: term.sum for name, term in terms.items()}
        found = torch.autograd.grad(list(sums.values()), list(leaves.values()), self.owner.scales(sums, counts), materialize_grads=True)
        self.owner.clock.mark("backward")
        rows = slice(begin, begin + len(valid))
        return {name: value.detach() for name, value in sums.items()}, {name: gradient[rows] for name, gradient in zip(leaves, found, strict=True)}
