"""Does a composition work? Asked before data is read: static checks first, then the model on the meta device with a fake batch.

Each check is one small function; its message numbers the ways out. What a component's own constructor refuses comes with its path
from ``zoo.build``. Importing this module imports no torch; the checks that need tensors do.
"""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.config import RunConfig
from zoo.errors import ConfigError, ZooError, did_you_mean, near
from zoo.files import home
from zoo.parallel.check import check_sharded_optimizer, check_sharing, parts_of_batch
from zoo.prefixes import check_prefix, under
from zoo.settings import BatchStatistics, Fault
from zoo.settings_checks import check_settings

if TYPE_CHECKING:
    from zoo.data.base import Dataset
    from zoo.model import Model
    from zoo.specs import DataSpec, FeatureSpec
    from zoo.structs import Batch, Features, Prediction

R = TypeVar("R")
FAKE_ROWS = 2


@dataclass(frozen=True)
class Report:
    """A composition that passed.

    Args:
        config: as checked.
        dataset: not opened.
        spec: from the dataset's sketch; class counts and vocabularies may be stand-ins until the data is read.
        model: on the meta device, in training mode.
        batch: the fake batch that went through.
        prediction: shapes of what the head gives.
        losses: the names of the loss terms.
        metrics: names of the head's metrics, without the split.
    """

    config: RunConfig
    dataset: "Dataset"
    spec: "DataSpec"
    model: "Model"
    batch: "Batch"
    prediction: dict[str, tuple[int, ...]]
    losses: tuple[str, ...]
    metrics: tuple[str, ...]


def check(config: RunConfig) -> Report:
    """Everything that can be known without data.

    Raises:
        ConfigError: the first thing that does not fit, with its path and the ways out.
    """
    check_settings(config)
    import torch

    from zoo.build import build_dataset, build_model
    from zoo.data.check import check_batches
    from zoo.layers.lora import add_lora

    check_device(config)
    dataset = build_dataset(config)
    spec = dataset.sketch()
    with torch.device("meta"):
        model = build_model(config, spec)
    check_augment(config, spec)
    check_batches(config, model, spec)
    check_teacher(config, model)
    check_init_prefixes(config, model)
    check_init_weights(config)
    add_lora(model, config.lora)
    check_batch_statistics(config, model)
    check_sharing(config, model)
    check_skips(config, model)
    check_optimizer(config, model)
    check_schedule(config)
    batch, prediction, losses, metrics = measured(config, model, spec)
    check_randomness(config, model, batch)
    check_monitor(config, model, losses, metrics)
    return Report(config, dataset, spec, model, batch, {name: tuple(value.shape) for name, value in prediction.items()}, losses, metrics)


def check_opened(config: RunConfig, spec: "DataSpec") -> None:
    """What a sketch's stand-ins let pass, with the spec of the opened data; the rest, the real constructors refuse.

    Raises:
        ConfigError: where the metric that decides is none of the head's, e.g. top-5 accuracy of four classes.
    """
    if config.trainer.monitor is None:
        return
    import torch

    from zoo.build import build_model

    with torch.device("meta"):
        model = build_model(config, spec)
    check_monitor(config, model, *measured(config, model, spec)[2:])


def measured(config: RunConfig, model: "Model", spec: "DataSpec") -> "tuple[Batch, Prediction, tuple[str, ...], tuple[str, ...]]":
    """A fake batch through a model on the meta device: the batch, the prediction, and the names of loss terms and metrics."""
    from zoo.data.fake import fake_batch

    batch = fake_batch(spec, FAKE_ROWS, device="meta")
    prediction = run_forward(config, model, batch)
    losses = run_loss(config, model, batch, prediction)
    model.eval()  # heads may give more when they are asked for answers than in training
    metrics = run_metrics(config, model, fake_batch(spec, FAKE_ROWS), run_forward(config, model, batch))
    model.train()
    return batch, prediction, losses, metrics


# --- on the meta device -----------------------------------------------------------------------------------------------------------


def check_device(config: RunConfig) -> None:
    from zoo.parallel.device import choose_device
    from zoo.training.precision import check_precision

    check_precision(choose_device(config.trainer.device), config.trainer.precision)


def check_augment(config: RunConfig, spec: "DataSpec") -> None:
    """Every transform finds the kind of input that it changes."""
    from zoo.build import build_augment

    for label, transform in build_augment(config).items():
        kinds = [entry.kind for entry in spec.inputs]
        if transform.input_kind not in kinds:
            raise ConfigError(
                f"data.augment.{label}",
                f"transform {config.augment[label]['name']!r} changes {transform.input_kind} inputs, but the data gives {', '.join(kinds)}",
                f"leave it out: ~data.augment.{label}",
                "transforms of this input: zoo list transform",
            )


def check_teacher(config: RunConfig, model: "Model") -> None:
    """A teacher that nobody listens to would cost its time, and change nothing."""
    if config.loader.teacher is not None and not getattr(model.head, "taught", False):
        raise ConfigError(
            "data.teacher", f"head {config.head['name']!r} does not learn from a teacher", "model/head=distilled_classification", "data.teacher=null"
        )


def check_batch_statistics(config: RunConfig, model: "Model") -> None:
    """Batch norm's numbers would depend on how a batch is split."""
    from zoo.model import mixes_batch
    from zoo.optim.freeze import Freezer

    parts = parts_of_batch(config)
    Freezer(model.train(), config.trainer)  # batch norm that is frozen for good mixes nothing
    layers = mixes_batch(model)
    if parts > 1 and layers and config.trainer.batch_statistics is not BatchStatistics.LOCAL:
        raise ConfigError(
            "trainer.batch_statistics",
            f"{len(layers)} layers (the first is {layers[0]}) take statistics over a batch, so that splitting it into {parts} parts would change the numbers",
            "an encoder, or an option of it, that normalises each sample alone (group or layer norm)",
            "one part: trainer.accumulate=1 parallel.processes=1",
            "each part's own statistics, knowing that numbers then depend on the split: trainer.batch_statistics=local",
        )
    if config.trainer.accumulate > 1 and layers and getattr(model.head, "whole_batch", False):
        raise ConfigError(
            "trainer.accumulate",
            f"{config.trainer.accumulate}: head {config.head['name']!r} compares the rows of the whole batch, for which each part runs forward twice, "
            f"and {len(layers)} layers (the first is {layers[0]}) would take its statistics twice",
            "trainer.accumulate=1",
            "an encoder, or an option of it, that normalises each sample alone (group or layer norm)",
        )


def check_randomness(config: RunConfig, model: "Model", batch: "Batch") -> None:
    """Numbers that a library draws from torch's generator would depend on how a batch is split; keyed ones (``zoo.layers.dropout``) do not."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from zoo.random import SampleRandom, sample_randomness

    parts = parts_of_batch(config)
    if parts == 1:
        return
    drawn: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in func.name():  # those without dropout have the tag too
                drawn.append(func.name())
            return func(*args, **(kwargs or {}))

    with Watch(), sample_randomness(SampleRandom(0, 0, batch.ids)):
        run_forward(config, model, batch)
    if drawn:
        raise ConfigError(
            "model",
            f"a layer draws from torch's generator ({drawn[0]}), so that splitting a batch into {parts} parts would change the numbers",
            "dropout=0 in the component that brings it, where it is another library's",
            "one part: trainer.accumulate=1 parallel.processes=1",
            "in a component of your own: zoo.layers.dropout.Dropout in place of F.dropout",
        )


def check_skips(config: RunConfig, model: "Model") -> None:
    """A step that is left out has been through the model: what batch norm has taken from it stays."""
    from zoo.model import mixes_batch

    trainer = config.trainer
    skips = "non_finite" if trainer.non_finite is Fault.SKIP else "on_spike" if trainer.spike is not None and trainer.on_spike is Fault.SKIP else None
    if skips is not None and (layers := mixes_batch(model)):
        raise ConfigError(
            f"trainer.{skips}",
            f"skip would leave the bad batch in the running statistics of {layers[0]} ({len(layers)} layers in all), and so in every evaluation",
            f"trainer.{skips}=rollback",
            "an option of the encoder that normalises each sample alone (group or layer norm)",
        )


def check_init_weights(config: RunConfig) -> None:
    """The weights to start from are there; a resumed run takes its checkpoint's."""
    if config.run.init is None or config.run.resume is not None:
        return
    try:
        check_source(config.run.init)
    except ZooError as error:
        raise ConfigError("init", str(error), "init=null to start from random weights") from error


def check_source(text: str) -> None:
    """Whether weights may come from a path, a name or an address, as far as that is known without fetching anything or reading a tensor.

    Raises:
        UriError: for what is no address.
        CheckpointError: where there is no such folder and no model of that name; for a folder of another library whose files nothing reads.
        ZooError: for a file of the web that has no checksum, or that holds no weights by its name.
    """
    from zoo.hub.local import is_foreign, only_tensors, used_files
    from zoo.hub.resolve import check_name, exists

    if "://" in text:
        from zoo.hub.pull import refuse_file
        from zoo.hub.uri import WebFile, parse

        if isinstance(source := parse(text), WebFile):
            refuse_file(source, weights=True)
        return
    path = home(text)
    if is_foreign(path):
        from zoo.hub.convert import converter_of

        if not only_tensors(path):
            converter_of(used_files(path))
    elif not exists(path):
        check_name(text)


def check_init_prefixes(config: RunConfig, model: "Model") -> None:
    """What ``init_skip``, ``init_fit`` and ``init_rename`` name is in the model."""
    names = [name for name, _ in model.named_parameters()]
    parts = {name.partition(".")[0] for name in names}
    for place, prefix in enumerate(config.run.init_skip):
        part = prefix.partition(".")[0]
        if part not in parts and near(part, parts):  # others may be the weights' own, which are read later
            check_prefix(f"init_skip[{place}]", prefix, names)
    for place, prefix in enumerate(config.run.init_fit):
        check_prefix(f"init_fit[{place}]", prefix, names)
    for theirs, ours in config.run.init_rename.items():
        check_prefix(f"init_rename.{theirs}", ours, names)
    if config.run.init_fit:
        from zoo.hub.fit import fits_of

        able = fits_of(model)
        for place, prefix in enumerate(config.run.init_fit):
            if not any(under(name, prefix) for name in able):
                known = ", ".join(able) or "none of this model's"
                raise ConfigError(f"init_fit[{place}]", f"{prefix!r}: nothing there can be fitted", f"one of {known}", f"init_skip=[{prefix}]")


def check_optimizer(config: RunConfig, model: "Model") -> None:
    from zoo.build import build_optimizer

    check_sharded_optimizer(config, build_optimizer(config, model))


def check_schedule(config: RunConfig) -> None:
    """Where the run's length is known beforehand; the trainer builds the real one."""
    from zoo.build import build_schedule
    from zoo.specs import Horizon

    if config.trainer.max_steps is not None:
        build_schedule(config, Horizon(total_steps=config.trainer.max_steps, steps_per_epoch=config.trainer.max_steps))


def run_forward(config: RunConfig, model: "Model", batch: "Batch") -> "Prediction":
    """A fake batch through the parts, each against what it declares."""
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    head: Any = model.head
    features: Features = _stage("model.encoder", config.encoder, lambda: model.encode(batch.inputs))
    check_features("model.encoder", config.encoder, encoder.output_spec, features)
    features = _stage("model.decoder", config.decoder, lambda: model.decode(features, batch.inputs))
    check_features("model.decoder", config.decoder, decoder.output_spec, features)
    prediction: Prediction = _stage("model.head", config.head, lambda: head(features))
    for name, value in prediction.items():
        if not value.shape or value.shape[0] != batch.size:
            raise ConfigError(
                "model.head",
                f"head {config.head['name']!r} gives {name!r} of shape {tuple(value.shape)} for {batch.size} rows",
                "the first axis of every prediction is the batch",
            )
    return prediction


def check_features(path: str, node: dict[str, Any], declared: "FeatureSpec", features: "Features") -> None:
    """What a part gives is what it said it would."""
    for name, value in (("tokens", features.tokens), ("pooled", features.pooled)):
        if value is not None and value.shape[-1] != declared.dim:
            raise ConfigError(
                path, f"{node['name']!r} declares dim={declared.dim}, but its {name} are {value.shape[-1]} wide", "set output_spec to what forward gives"
            )
    missing = [
        name
        for name, wanted, value in (("pooled", declared.pooled, features.pooled), ("maps", declared.maps, features.maps or None))
        if wanted and value is None
    ]
    missing += ["tokens"] if declared.layout == "sequence" and features.tokens is None else []
    if missing:
        raise ConfigError(path, f"{node['name']!r} declares {' and '.join(missing)}, but gives none", "set output_spec to what forward gives")


def run_loss(config: RunConfig, model: "Model", batch: "Batch", prediction: "Prediction") -> tuple[str, ...]:
    """Counts from targets alone, and a loss term for each of them."""
    head: Any = model.head
    counts = _stage("model.head", config.head, lambda: head.count(batch.targets, batch.valid))
    terms = _stage("model.head", config.head, lambda: head.loss(prediction, batch.targets, batch.valid))
    if set(counts) != set(terms):
        raise ConfigError(
            "model.head", f"head {config.head['name']!r} counts {sorted(counts)}, but its loss terms are {sorted(terms)}", "give both the same names"
        )
    return tuple(terms)


def run_metrics(config: RunConfig, model: "Model", batch: "Batch", prediction: "Prediction") -> tuple[str, ...]:
    """Metrics and answers of zeros in the prediction's shapes: no weight takes part in them."""
    import torch

    head: Any = model.head
    zeros = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in prediction.items()}
    metrics = head.metrics()
    _stage("model.head", config.head, lambda: metrics.update(zeros, batch.targets, batch.valid))
    answers = _stage("model.head", config.head, lambda: head.decode(zeros, batch.targets))
    _stage("model.head", config.head, lambda: json.dumps(answers))  # plain values, as --json prints them
    if len(answers) != batch.size:
        raise ConfigError("model.head", f"head {config.head['name']!r} decodes {batch.size} rows to {len(answers)} answers", "one answer for each row")
    return tuple(_stage("model.head", config.head, metrics.compute))


def check_monitor(config: RunConfig, model: "Model", losses: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    name = config.trainer.monitor
    if name is None:
        return
    head: Any = model.head
    terms = () if getattr(head, "whole_batch", False) else ("loss", *(f"loss_{term}" for term in losses if len(losses) > 1))
    known = [f"validation/{metric}" for metric in (*terms, *metrics)]
    if name not in known:
        raise ConfigError(
            "trainer.monitor", f"head {config.head['name']!r} measures no {name!r}", did_you_mean(name, known), "trainer.monitor=null for the head's own"
        )
    if config.trainer.monitor_mode is None and name != f"validation/{head.monitor[0]}":
        raise ConfigError(
            "trainer.monitor", f"{name!r}: whether more or less of it is better is not known", "trainer.monitor_mode=max", "trainer.monitor_mode=min"
        )


def _stage(path: str, node: dict[str, Any], action: Callable[[], R]) -> R:
    """One part at work on a fake batch; what it raises is told with its path and line."""
    try:
        return action()
    except ZooError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            path,
            f"{node['name']!r} cannot work on this data with these options: {type(error).__name__}: {error}",
            "other options of it, or other data: its message says what does not fit",
            f"if it is a component of your own: {frame.filename}:{frame.lineno}, `--debug` shows the whole traceback",
        ) from error
