"""A model with its processor: raw inputs in, answers that a person reads out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.data.processor import Processor
from zoo.errors import DataError, ZooError
from zoo.hub.bundle import Bundle, load_bundle
from zoo.inference.inputs import Sample, samples
from zoo.model import Model
from zoo.parallel.device import choose_device

if TYPE_CHECKING:
    from zoo.specs import InputSpec


class Predictor:
    """Answers for raw inputs, prepared exactly as in training.

    Args:
        model: in evaluation mode, on ``device``.
        processor: of the data that it was trained on.
        bundle: where both come from.
        device: where the model is.
    """

    def __init__(self, *, model: Model, processor: Processor, bundle: Bundle, device: torch.device) -> None:
        self.model, self.bundle, self.device = model.eval(), bundle, device
        head: Any = model.head
        target = head.target.name
        # Only what the model takes has to be given: other inputs of the data, and targets, are left out.
        self.processor = Processor({model.input: processor.inputs[model.input]}, {target: processor.targets[target]})
        self.target: Any = processor.targets[target]

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> "Predictor":
        """From a bundle or a run's directory.

        Raises:
            CheckpointError: where it is incomplete, damaged, hostile, or needs components that are not registered.
        """
        chosen = choose_device(device)
        loaded = load_bundle(folder, chosen)
        return cls(model=loaded.model, processor=loaded.processor, bundle=loaded.bundle, device=chosen)

    @property
    def input(self) -> "InputSpec":
        return self.processor.inputs[self.model.input].spec

    @property
    def metrics(self) -> dict[str, float]:
        """Figures at the end of training: ``test/accuracy`` ..."""
        return dict(self.bundle.metrics)

    def predict(self, inputs: Sequence[Any], *, batch_size: int = 32, top_k: int = 5) -> list[dict[str, Any]]:
        """One answer for each input, in order; one for each row where an input is a table's file.

        Args:
            inputs: raw, by the kind of the model's input: image or sound files (or arrays), texts, rows of a table, user ids or lists of
                item ids (``zoo.inference.inputs.samples``).
            batch_size: inputs that go through the model together; changes no answer.
            top_k: labels or items of each answer.

        Returns:
            ``{"input": ..., **answer}``, or ``{"input": ..., "error": reason}`` for what cannot be used; the others are answered all the same.
        """
        if isinstance(inputs, str | bytes | Path | Mapping):
            raise ZooError(f"predict takes a list of inputs: predict([{inputs!r}])")
        if batch_size < 1 or top_k < 1:
            raise ZooError(f"batch_size={batch_size} and top_k={top_k} have to be 1 or more")
        given = samples(inputs, self.input.kind, self.model.input)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(given), batch_size):
            answers += self._answer(given[start : start + batch_size], top_k)
        return answers

    def _answer(self, given: list[Sample], top_k: int) -> list[dict[str, Any]]:
        errors = {place: str(sample.error) for place, sample in enumerate(given) if sample.error is not None}
        usable = [place for place in range(len(given)) if place not in errors]
        found: dict[int, dict[str, Any]] = {}
        if usable:
            try:
                found = self._forward([given[place].raw for place in usable], usable, errors, top_k)
            except DataError as error:  # none of them can be used
                errors |= self._reasons([given[place].raw for place in usable], usable, error)
        return [{"input": sample.name} | (found[place] if place in found else {"error": errors[place]}) for place, sample in enumerate(given)]

    @torch.inference_mode()
    def _forward(self, raws: list[Any], places: list[int], errors: dict[int, str], top_k: int) -> dict[int, dict[str, Any]]:
        batch = self.processor.batch([{self.model.input: raw} for raw in raws], with_targets=False)
        bad = [row for row, valid in enumerate(batch.valid.tolist()) if not valid]
        errors |= {places[row]: sample.reason for row, sample in zip(bad, batch.bad, strict=True)}
        batch = batch.to(self.device)
        prediction = self.model(batch.inputs)
        head: Any = self.model.head
        answers = head.decode(prediction, batch.targets)
        return {places[row]: self._shape(answer, top_k) for row, answer in enumerate(answers) if row not in bad}

    def _shape(self, answer: dict[str, Any], top_k: int) -> dict[str, Any]:
        """The best ``top_k`` of what is ranked; item numbers become the data's own ids."""
        return {key: value[:top_k] if key == "top" else value for key, value in answer.items()}

    def _reasons(self, raws: list[Any], places: list[int], error: DataError) -> dict[int, str]:
        if len(raws) == 1:
            return {places[0]: str(error)}
        reasons = {}
        for raw, place in zip(raws, places, strict=True):
            try:
                self.processor.batch([{self.model.input: raw}], with_targets=False)
            except DataError as own:
                reasons[place] = str(own)
        return reasons
