"""All codecs of a data set: what turns raw values into batches, in training and, from a bundle, ever after."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.data.base import InputCodec, OpenData, TargetCodec, spec_of
from zoo.data.codecs import INPUT_CODECS, TARGET_CODECS
from zoo.data.codecs.state import list_of, strict
from zoo.data.collate import Sample, columns_of, encode_sample, fillers, finished, make_batch
from zoo.errors import CheckpointError, DataError, did_you_mean
from zoo.specs import DataSpec
from zoo.structs import BadSample, Batch

FORMAT = 1
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
"""Names of inputs and targets: they become folder names, so nothing else passes."""


class Processor:
    """Codecs by name.

    Args:
        inputs: of the data's inputs.
        targets: of its targets.
        optional: inputs that a row may lack.
    """

    def __init__(self, inputs: Mapping[str, InputCodec], targets: Mapping[str, TargetCodec], optional: Collection[str] = ()) -> None:
        self.inputs, self.targets, self.optional = dict(inputs), dict(targets), tuple(optional)
        for name in [*self.inputs, *self.targets]:
            if not NAME.fullmatch(name):
                raise DataError(f"{name!r} cannot name an input or target: letters, digits and underscores")

    @classmethod
    def of(cls, data: OpenData) -> "Processor":
        return cls(data.inputs, data.targets, data.optional)

    @property
    def spec(self) -> DataSpec:
        return spec_of(self.inputs, self.targets, self.optional)

    def batch(self, rows: Sequence[Mapping[str, Any]], *, with_targets: bool) -> Batch:
        """Encode, collate and finish raw rows; a row's id is its place.

        A row that cannot be encoded stays as a filler with ``valid`` False and its reason in ``bad``; where none can, the first reason is raised.
        """
        assert rows
        encoded = [self._encode(row, with_targets) for row in rows]
        bad = tuple(BadSample(f"row {place}", str(entry)) for place, entry in enumerate(encoded) if isinstance(entry, DataError))
        good = next((entry for entry in encoded if not isinstance(entry, DataError)), None)
        if good is None:
            raise DataError(f"none of {len(rows)} inputs can be used; the first: {encoded[0]}" if len(rows) > 1 else str(encoded[0]))
        codecs: dict[str, InputCodec | TargetCodec] = {**self.inputs, **self.targets}
        fill = fillers(good, codecs, self.optional)
        samples = [fill if isinstance(entry, DataError) else entry for entry in encoded]
        columns = {name: columns_of(codecs[name], [sample[name] for sample in samples]) for name in good}
        places = torch.arange(len(rows))
        valid = torch.tensor([not isinstance(entry, DataError) for entry in encoded])
        batch = make_batch(
            {name: columns[name] for name in self.inputs},
            {name: columns[name] for name in self.targets if name in columns},
            places,
            ids=places,
            valid=valid,
            bad=bad,
        )
        inputs = {name: finished(codec, batch.inputs[name], batch.inputs[name].present) for name, codec in self.inputs.items()}
        return Batch(inputs, batch.targets, places, valid, bad)

    def _encode(self, row: Mapping[str, Any], with_targets: bool) -> Sample | DataError:
        targets = self.targets if with_targets else {}
        if absent := [name for name in (*self.inputs, *targets) if name not in row and name not in self.optional]:
            return DataError(f"the row lacks {', '.join(absent)}; it has {', '.join(row) or 'nothing'}")
        try:
            encoded = encode_sample(row, self.inputs, targets, self.optional)
            if not with_targets:  # what a head needs of a target besides the truth: the items that a ranking leaves out
                encoded |= {name: codec.ask(row) for name, codec in self.targets.items() if hasattr(codec, "ask")}
        except DataError as error:
            return error
        return encoded

    # --- on disk ------------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """``processor.json``, and a folder for each input whose codec has files of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, codec in self.inputs.items():
            codec.save_files(folder / name)
        groups = {
            group: {name: {"kind": codec.kind} | codec.state() for name, codec in codecs.items()}
            for group, codecs in (("inputs", self.inputs), ("targets", self.targets))
        }
        optional = {"optional": list(self.optional)} if self.optional else {}
        text = json.dumps({"format": FORMAT, **optional, **groups}, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "processor.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Processor":
        """Strict: every key known, kinds from a fixed table.

        Raises:
            CheckpointError: for whatever is missing, unknown, mistyped or damaged.
        """
        path = folder / "processor.json"
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        optional = list_of(tree.pop("optional", []) if isinstance(tree, dict) else [], str, "optional")
        strict(tree, "the processor", format=int, inputs=dict, targets=dict)
        if tree["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {tree['format']}, this zoo reads {FORMAT}; use the zoo that wrote it, or a newer one")
        inputs = {name: _codec(name, state, INPUT_CODECS, folder) for name, state in tree["inputs"].items()}
        targets = {name: _codec(name, state, TARGET_CODECS, folder) for name, state in tree["targets"].items()}
        if unknown := sorted(set(optional) - set(inputs)):
            raise CheckpointError(f"{path}: {unknown[0]!r} is optional and no input; {did_you_mean(unknown[0], inputs)}")
        for codec in targets.values():
            if hasattr(codec, "connect"):
                codec.connect(inputs)
        return cls(inputs, targets, optional)


def _codec(name: str, state: Any, kinds: Mapping[str, Any], folder: Path) -> Any:
    if not NAME.fullmatch(name):
        raise CheckpointError(f"processor.json: {name!r} cannot name an input or target")
    if not isinstance(state, dict) or not isinstance(state.get("kind"), str) or state["kind"] not in kinds:
        kind = state.get("kind") if isinstance(state, dict) else state
        raise CheckpointError(f"processor.json: {name} is of unknown kind {kind!r}; {did_you_mean(str(kind), kinds)}")
    try:
        return kinds[state["kind"]].from_state(name, {key: value for key, value in state.items() if key != "kind"}, folder)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"processor.json: {name}: {error}") from error
