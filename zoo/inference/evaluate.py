"""Figures of a finished model on a split of its data: the evaluation at the end of training, once more."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zoo.config import RunConfig
from zoo.data.agreement import differences
from zoo.data.base import OpenData, Split
from zoo.data.processor import Processor
from zoo.errors import CheckpointError, ConfigError, DataError, did_you_mean
from zoo.hub.bundle import CONFIG, Bundle, LoadedBundle, load_bundle, open_bundle
from zoo.hub.portable import is_path, on_this_machine
from zoo.training.evaluator import Evaluation

NUMBERED = ("history",)
"""Kinds of input whose datasets give identifiers of their catalogue, not raw values."""

OVERRIDABLE = ("data.", "trainer.precision", "trainer.device")


@dataclass(frozen=True)
class RowByRow:
    """A split whose samples are read one at a time, by their raw labels: for data whose own numbering of classes is another than the model's."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def read(self, index: int) -> Mapping[str, Any]:
        return self.split.read(index)

    def describe(self, index: int) -> str:
        return self.split.describe(index)


@dataclass(frozen=True)
class Measured:
    """An evaluation and what it was of."""

    loaded: LoadedBundle
    evaluation: Evaluation
    seconds: float


def evaluate_bundle(path: str | Path, *, split: str = "test", overrides: Sequence[str] = (), device: str | None = None) -> Measured:
    """Open the data that a bundle was trained on, or what the overrides make of it, and measure the model on one split. A bundle of weights that
    zoo did not train names no data: the overrides do.

    The bundle's own codecs prepare the samples, so that labels, vocabularies and normalisation are those of its training.

    Args:
        path: a bundle or a run's directory.
        split: of the data.
        overrides: ``data.root=...`` and the like; ``data=NAME`` first where the bundle names no data.
        device: None takes the run's own.

    Raises:
        ConfigError, DataError, CheckpointError: what the user has to mend.
    """
    from zoo.build import build_dataset
    from zoo.data.loader import Loader
    from zoo.parallel.collectives import Group
    from zoo.parallel.device import choose_device
    from zoo.training.evaluator import Evaluator

    began = time.perf_counter()
    bundle = open_bundle(path)
    data = data_of(bundle)  # told before weights are read, as what follows
    config = override(bundle.config, overrides) if data else data_given(bundle.name, overrides)
    loaded = load_bundle(path)
    chosen = choose_device(device or config.trainer.device)
    loaded.model.to(chosen)
    opened = build_dataset(config).open()
    prepared = with_codecs_of(loaded, opened)
    if split not in prepared.splits:
        raise DataError(f"{config.data['name']} has no split {split!r}; {did_you_mean(split, prepared.splits)}")
    settings = config.loader
    loader = Loader(
        data=prepared,
        split=split,
        settings=settings,
        augment={},
        seed=config.run.seed,
        training=False,
        batch_size=settings.eval_batch_size or 2 * settings.batch_size,
    )
    evaluator = Evaluator(loader=loader, split=split, group=Group(), device=chosen, precision=config.trainer.precision)
    return Measured(loaded, evaluator.evaluate(loaded.model), time.perf_counter() - began)


def data_of(bundle: Bundle) -> dict[str, Any]:
    """The data of a bundle's config; empty in one of weights that zoo did not train.

    Raises:
        CheckpointError: where it is no mapping: zoo writes one into every bundle.
    """
    data = bundle.config.get("data")
    if not isinstance(data, dict):
        found = "is missing" if "data" not in bundle.config else "is null" if data is None else f"is a {type(data).__name__}"
        raise CheckpointError(
            f"{bundle.path / CONFIG}: data {found}, where a mapping with the name of a dataset is needed: the file is damaged, and does not say what the model "
            "is measured on\n  way out: the bundle as zoo wrote it: zoo export RUN --to FOLDER, or another copy of it"
        )
    return data


def with_codecs_of(loaded: LoadedBundle, opened: OpenData) -> OpenData:
    """The data's samples, prepared by the bundle's codecs.

    Samples that a dataset has encoded beforehand are taken as they are where every codec is the same; else they are read one by one, raw.

    Raises:
        DataError: where the data lacks an input or target of the model, or numbers its items in another way and has them as numbers only.
    """
    processor = loaded.processor
    for group, ours, theirs in (("input", processor.inputs, opened.inputs), ("target", processor.targets, opened.targets)):
        if absent := sorted(set(ours) - set(theirs)):
            raise DataError(f"the data has no {group} {absent[0]!r}, which the model was trained with; it has {', '.join(theirs) or 'none'}")
    used = Processor({name: opened.inputs[name] for name in processor.inputs}, {name: opened.targets[name] for name in processor.targets})
    found = differences(processor, used)
    numbered = {f"input {name}" for name, codec in processor.inputs.items() if codec.kind in NUMBERED}
    if others := [difference for difference in found if difference.codec in numbered and difference.vocabulary]:
        raise DataError(
            f"the data numbers its items in another way than the model's: {'; '.join(map(str, others))}\n"
            "  way out: evaluate on the data that the model was trained on, data.root and data.min_rating included"
        )
    splits = {name: RowByRow(split) for name, split in opened.splits.items()} if found else opened.splits
    return OpenData(processor.inputs, processor.targets, dict(splits), opened.notes, optional=processor.optional)


def data_given(name: str, overrides: Sequence[str]) -> RunConfig:
    """A config with data of the user's own, for a model whose bundle names none: composed as ``zoo train`` would. Its model is not the bundle's, and not used.

    Args:
        name: of the model.
        overrides: ``data=NAME`` with options of it, ``trainer.precision`` and ``trainer.device``.

    Raises:
        ConfigError: where no data is given, for a word that is no override, a key that decides the model, or a value that does not fit.
    """
    for word in overrides:
        key = _key(word).lstrip("+~")
        if key != "data" and not key.startswith(("data/", *OVERRIDABLE)):
            raise _fixed(key, ("data", *OVERRIDABLE))
    if not any(word.startswith("data=") for word in overrides):
        raise ConfigError(
            "data",
            f"{name} was not trained by zoo, so that its config names no data to measure it on",
            "name some that has the model's inputs and labels: zoo eval MODEL data=image_folder data.root=FOLDER; `zoo list dataset` shows what there is",
            "train it further, which measures it at the end: zoo train data=NAME init=MODEL",
        )
    from zoo.compose import compose

    return compose(overrides)


def _key(word: str) -> str:
    key, sign, _ = word.partition("=")
    if not sign:
        raise ConfigError("", f"{word!r} is no override", "zoo eval RUN --split test data.root=FOLDER")
    return key


def _fixed(key: str, changeable: Sequence[str]) -> ConfigError:
    return ConfigError(key, "cannot change on a finished model", f"what can: {', '.join(f'{name}*' if name.endswith('.') else name for name in changeable)}")


def override(tree: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """A bundle's config with other values for what an evaluation may change.

    Raises:
        ConfigError: for a word that is no override, a key that decides the model, or a value that does not fit.
    """
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(tree)))
    changed["data"] = {key: on_this_machine(value) if isinstance(value, str) and is_path(key) else value for key, value in changed["data"].items()}
    origins = {}
    for word in overrides:
        key, value = _key(word), word.partition("=")[2]
        if not key.startswith(OVERRIDABLE):
            raise _fixed(key, OVERRIDABLE)
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(key, f"{value!r} is no value: {' '.join(str(error).split())}") from error
        *parents, leaf = key.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent)
            if not isinstance(node, dict):
                raise ConfigError(key, f"there is no {parent!r} to change")
        node[leaf] = parsed
        origins[key] = f"the override {word}"
    return RunConfig.from_dict(changed, lambda path: origins.get(path, "the bundle's config.yaml"))
