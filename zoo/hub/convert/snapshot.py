"""The files of a foreign checkpoint: its config as plain data, and its tensors."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.files import read_plain_json, read_text
from zoo.hub.uri import inside
from zoo.hub.weight_files import INDEX, PICKLED, WHOLE, pickle_of
from zoo.hub.weights import read_header
from zoo.training.tensors import read_tensors

RUNS_CODE = ("auto_map", "custom_pipelines", "trust_remote_code", "_target_", "library_code")


@dataclass(frozen=True)
class Snapshot:
    """A folder with a foreign checkpoint.

    Args:
        folder: with config.json and weights.
        name: for messages: what was asked for.
    """

    folder: Path
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json.

        Raises:
            CheckpointError: where it asks for code of its own.
        """
        return plain_config(self.folder / "config.json", self.name)

    def optional(self, name: str) -> dict[str, Any]:
        """Another JSON file; empty where there is none."""
        file = self.folder / name
        return plain_config(file, self.name) if file.is_file() else {}

    def rows(self, name: str) -> list[dict[str, Any]] | None:
        """A JSON file that is a list of mappings; None where there is none.

        Raises:
            CheckpointError: where it is something else.
        """
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            rows = json.loads(read_text(file))
        except (ValueError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.name}: {name}: not JSON: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CheckpointError(f"{self.name}: {name}: a list of mappings is needed")
        _refuse_code(rows, self.name, name)
        return rows

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By their foreign names.

        Raises:
            CheckpointError: where there are none, or they are damaged or hostile.
        """
        if (self.folder / WHOLE).is_file():
            return self._read(self.folder / WHOLE)
        if (self.folder / INDEX).is_file():
            return self._sharded()
        pickled = pickle_of((path.name for path in self.folder.iterdir() if path.is_file()), self.name)
        if pickled is not None:
            from zoo.hub.pickles import read_pickled

            return read_pickled(self.folder / pickled)
        raise CheckpointError(f"{self.name}: has no {WHOLE}, no {INDEX} and no {PICKLED}; it holds {', '.join(path.name for path in self.folder.iterdir())}")

    def _read(self, path: Path) -> dict[str, Tensor]:
        read_header(path)
        return read_tensors(path)

    def _sharded(self) -> dict[str, Tensor]:
        index = read_plain_json(self.folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) and inside(file) and file.endswith(".safetensors") for file in index.values()):
            raise CheckpointError(f"{self.name}: {INDEX}: weight_map has to name files of safetensors beside it")
        tensors: dict[str, Tensor] = {}
        for file in sorted(set(index.values())):
            part = self._read(self.folder / file)
            if wrong := [name for name in part if index.get(name) != file]:
                raise CheckpointError(f"{self.name}: {file} holds {wrong[0]}, which {INDEX} does not say")
            tensors |= part
        if absent := sorted(set(index) - set(tensors)):
            raise CheckpointError(f"{self.name}: {INDEX} names {absent[0]}, which is in none of its files")
        return tensors


def plain_config(file: Path, name: str) -> dict[str, Any]:
    """A foreign JSON file: data, or refused.

    Raises:
        CheckpointError: for keys that ask for code, at any depth.
    """
    tree = read_plain_json(file)
    _refuse_code(tree, name, file.name)
    return tree


def write_json(file: Path, tree: Any) -> None:
    """As transformers writes its configs."""
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def transformer_config(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' configs of BERT and ViT call the options that zoo's encoders share."""
    return {
        "hidden_size": encoder["dim"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["heads"],
        "intermediate_size": round(encoder["mlp_ratio"] * encoder["dim"]),
        "hidden_act": encoder["activation"],
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": encoder["attention_dropout"],
        "layer_norm_eps": encoder["norm_eps"],
        "dtype": "float32",
    }


def _refuse_code(tree: Any, name: str, file: str) -> None:
    if (path := _asks_for_code(tree, "")) is not None:
        raise CheckpointError(
            f"{name}: {file}: {path} asks for code that comes with the checkpoint, which zoo never runs: its numbers would be others without it; refused\n"
            "  way out: a checkpoint of an architecture that zoo has (`zoo list converter`)"
        )


def _asks_for_code(value: Any, path: str) -> str | None:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key in RUNS_CODE and entry not in (None, False, {}, []):
                return where
            if (found := _asks_for_code(entry, where)) is not None:
                return found
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            if (found := _asks_for_code(entry, f"{path}[{place}]")) is not None:
                return found
    return None


def wanted(config: Mapping[str, Any], name: str, **kinds: type) -> tuple[Any, ...]:
    """Values of a config that an architecture cannot do without.

    Raises:
        CheckpointError: for one that is missing or of another type.
    """
    found = []
    for key, kind in kinds.items():
        value = config.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise CheckpointError(f"{name}: config.json: {key} is {json.dumps(value, default=str)}, where {kind.__name__} is needed")
        found.append(value)
    return tuple(found)


def labels_of(config: Mapping[str, Any], count: int, name: str) -> tuple[str, ...]:
    """The names of a classifier's outputs, in their order; ``LABEL_0`` ... where the config has none.

    Raises:
        CheckpointError: where they are not as many as the outputs.
    """
    told = config.get("id2label")
    if told is None or told == {}:
        return tuple(f"LABEL_{place}" for place in range(count))
    labels = [told.get(str(place)) for place in range(count)] if isinstance(told, dict) else []
    if not isinstance(told, dict) or len(told) != count or not all(isinstance(label, str | int | float) for label in labels):
        given = f"has {len(told)} entries" if isinstance(told, dict) else f"is {json.dumps(told)[:80]}"
        raise CheckpointError(f"{name}: config.json: id2label {given}, where names of {count} outputs, 0 to {count - 1}, are needed")
    return tuple(different([str(label) for label in labels]))


def different(labels: list[str]) -> list[str]:
    """Labels, numbered where several are called the same (ImageNet has two cranes)."""
    count = Counter(labels)
    numbered = [label if count[label] == 1 else f"{label} ({place})" for place, label in enumerate(labels)]
    return numbered if len(set(numbered)) == len(numbered) else different(numbered)  # one may have been called "crane (134)" before
