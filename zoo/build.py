"""Config + DataSpec -> Model: the one place that wires specs together.

Nodes are checked ones (``RunConfig``); what a constructor refuses becomes a ``ConfigError`` with the node's path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from zoo.errors import ConfigError, ZooError, article
from zoo.fetching import fetching
from zoo.model import Model
from zoo.registry import CALLBACKS, DATASETS, DECODERS, ENCODERS, HEADS, LOGGERS, OPTIMIZERS, SCHEDULES, TRANSFORMS, Registry, Wire
from zoo.schema import Wired
from zoo.settings import ModelSettings
from zoo.specs import (
    INPUT_KINDS,
    TARGET_KINDS,
    ClassTarget,
    ContextTarget,
    DataSpec,
    FeatureSpec,
    Horizon,
    ImageInput,
    InputSpec,
    Spec,
    TargetSpec,
    TokenInput,
    TokenTarget,
    WrittenInput,
)

if TYPE_CHECKING:
    import torch

    from zoo.config import RunConfig
    from zoo.data.base import Dataset, Transform
    from zoo.optim.schedules import Schedule
    from zoo.training.logging import RunInfo

SPEC_CLASSES: dict[str, type[Spec]] = {
    spec.__name__: spec for spec in (*INPUT_KINDS.values(), *TARGET_KINDS.values(), InputSpec, TokenInput, TargetSpec, FeatureSpec, Horizon)
}


class ModelNodes(Protocol):
    """Checked nodes of a model; a ``RunConfig`` has them."""

    @property
    def encoder(self) -> dict[str, Any]: ...
    @property
    def decoder(self) -> dict[str, Any]: ...
    @property
    def head(self) -> dict[str, Any]: ...
    @property
    def model(self) -> ModelSettings: ...


@dataclass(frozen=True)
class Nodes:
    """A model's nodes without the rest of a run."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    head: dict[str, Any]
    model: ModelSettings = field(default_factory=ModelSettings)


def build_model(config: ModelNodes, spec: DataSpec, *, fetch: bool = True) -> Model:
    """The model that a config describes for data of this spec. Under ``torch.device("meta")`` it costs nothing.

    Args:
        config: checked nodes.
        spec: of the data.
        fetch: whether components may download weights; no, where every tensor is about to be filled.

    Raises:
        ConfigError: where parts do not fit the data or each other; the message lists what does.
    """
    with fetching(fetch):
        encoder, inputs = build_encoder(config.encoder, spec, config.model.input)
        written = choose_written(config.decoder["name"], spec)
        decoder: Any = _build(DECODERS, config.decoder, "model.decoder", encoder.output_spec, *([] if written is None else [written]))
        target: Any = choose(HEADS, config.head["name"], spec.targets, config.model.target, "model.target")
        head: Any = _build(HEADS, config.head, "model.head", decoder.output_spec, target)
    if isinstance(target, TokenTarget | ContextTarget) and target.of not in (*inputs, None if written is None else written.name):
        raise ConfigError(
            "model.decoder",
            f"the target is the text {target.of!r}, which the model does not take: it reads {', '.join(inputs)}",
            f"a decoder that writes it: model/decoder={'|'.join(name for name in DECODERS.names() if writes(name))}",
        )
    return Model(encoder=encoder, decoder=decoder, head=head, input=inputs, written=None if written is None else written.name)


def writes(decoder: str) -> bool:
    """Whether a decoder takes what was written so far."""
    return any("WrittenInput" in parameter.specs for parameter in DECODERS.schema(decoder).wired)


def choose_written(decoder: str, spec: DataSpec) -> WrittenInput | None:
    """The input of a decoder that writes; None for others.

    Raises:
        ConfigError: where the data has none.
    """
    if not writes(decoder):
        return None
    found = [entry for entry in spec.inputs if isinstance(entry, WrittenInput)]
    if not found:
        known = ", ".join([*(entry.name for entry in spec.inputs), *(entry.name for entry in spec.targets)])
        raise ConfigError(
            "model.decoder",
            f"decoder {decoder!r} writes a text, and the data tells none to write: it gives {known}",
            "data with a text to write: data.target_kind=text data.target=COLUMN",
            "model/decoder=none",
        )
    return found[0]


def build_encoder(node: dict[str, Any], spec: DataSpec, wanted: str | None = None) -> tuple[Any, tuple[str, ...]]:
    """An encoder and the names of the inputs that it takes: its own, or those of the encoders that it is made of.

    A nested encoder takes the input that its label names, or else the only one that fits it; inside an encoder that is given its inputs by
    name, the label has to be one.
    """
    readable = tuple(entry for entry in spec.inputs if not entry.for_decoder)
    inputs: list[str] = []
    labels: list[tuple[str, InputSpec]] = []

    def wire(components: Registry, nested: Mapping[str, Any], path: str) -> dict[str, Any]:
        wired = components.schema(nested["name"]).wired
        if components is not ENCODERS or not accepted(ENCODERS, nested["name"]):
            return {parameter.name: _spec_for(parameter, (), path) for parameter in wired}
        label = path.rpartition(".")[2]
        chosen = choose(ENCODERS, nested["name"], readable, label if label in {entry.name for entry in readable} else None, path, nested=True)
        inputs.append(chosen.name)
        labels.append((path, chosen))
        return {parameter.name: _spec_for(parameter, (chosen,), path) for parameter in wired}

    if not accepted(ENCODERS, node["name"]) and any(option.type.holds("encoder") for option in ENCODERS.schema(node["name"]).options):
        if wanted is not None:
            raise ConfigError("model.input", f"encoder {node['name']!r} is made of encoders with inputs of their own, so that {wanted!r} chooses none")
        built = _build(ENCODERS, node, "model.encoder", wire=wire)
    else:
        chosen = choose(ENCODERS, node["name"], readable, wanted, "model.input")
        built = _build(ENCODERS, node, "model.encoder", chosen, wire=wire)
        labels.insert(0, ("model.encoder", chosen))
        inputs.insert(0, chosen.name)
    by_name, needs_all = (bool(getattr(built, name, False)) for name in ("by_name", "needs_all"))
    _check_inputs(node["name"], labels, by_name=by_name, lacking=by_name and not needs_all)
    return built, tuple(dict.fromkeys(inputs))


def _check_inputs(encoder: str, taken: list[tuple[str, InputSpec]], *, by_name: bool, lacking: bool) -> None:
    """What the encoders inside take, against what the whole is given: by name, perhaps ``lacking`` some."""
    for path, entry in taken:
        parent, _, label = path.rpartition(".")
        if by_name and label != entry.name:
            raise ConfigError(path, f"no input is named {label!r}; what fits here is {entry.name!r}", f"name it after its input: {parent}.{entry.name}")
        if entry.optional and not lacking:
            other = f"an encoder that takes absent inputs: model/encoder=fusion +model/encoder@model.encoder.encoders.{entry.name}={encoder}"
            raise ConfigError(
                "model.encoder",
                f"samples of this data may lack the input {entry.name!r}, and encoder {encoder!r} needs it in every row",
                *([] if by_name else [other]),
                "only samples that have it, by the data's options: data.optional=[] (the others are left out, up to data.max_bad_samples)",
            )


def choose(components: Registry, name: str, candidates: tuple[Any, ...], wanted: str | None, path: str, *, nested: bool = False) -> Any:
    """The input that an encoder takes, or the target that a head does: the named one, or the only one that fits."""
    takes = accepted(components, name)
    if wanted is not None and wanted not in {candidate.name for candidate in candidates}:
        raise ConfigError(path, f"the data has nothing named {wanted!r}", f"one of {', '.join(candidate.name for candidate in candidates)}")
    fitting = [candidate for candidate in candidates if isinstance(candidate, takes) and wanted in (None, candidate.name)]
    if len(fitting) == 1:
        return fitting[0]
    has = ", ".join(f"{candidate.name} ({candidate.kind})" for candidate in candidates) or "nothing"
    needs = " or ".join(spec.__name__ for spec in takes)
    if fitting:
        parent = path.rpartition(".")[0]
        ways = [f"name it after its input: {parent}.{entry.name}" if nested else f"{path}={entry.name}" for entry in fitting]
        raise ConfigError(path, f"{components.kind} {name!r} could take any of {', '.join(entry.name for entry in fitting)}", *ways)
    others = fitting_names(components, [candidate for candidate in candidates if wanted in (None, candidate.name)])
    group = f"{components.group}@{path}" if nested else components.group
    raise ConfigError(
        path if nested else components.group.replace("/", "."),
        f"{components.kind} {name!r} takes {needs}, but the data gives {has}",
        f"choose {article(components.kind)} that fits: {group}=" + "|".join(others)
        if others
        else f"no {components.kind} takes that; add one (CONTRIBUTING.md)",
        "choose other data: data=NAME (`zoo list dataset`)",
    )


def accepted(components: Registry, name: str) -> tuple[type[InputSpec] | type[TargetSpec], ...]:
    """Spec classes of the input or target that a component is wired to."""
    classes = [SPEC_CLASSES[spec] for wired in components.schema(name).wired for spec in wired.specs if spec in SPEC_CLASSES]
    return tuple(spec for spec in classes if issubclass(spec, InputSpec if components is ENCODERS else TargetSpec))


def fitting_names(components: Registry, candidates: list[Any]) -> list[str]:
    """Names of the components that could take one of these specs."""
    return [name for name in components.names() if any(isinstance(candidate, accepted(components, name)) for candidate in candidates)]


def _build(components: Registry, node: dict[str, Any], path: str, *specs: Spec, wire: Wire | None = None) -> Any:
    wired = {parameter.name: _spec_for(parameter, specs, path) for parameter in components.schema(node["name"]).wired}
    built = components.build(node, path, wire, **wired)
    if components is not HEADS and not isinstance(getattr(built, "output_spec", None), FeatureSpec):
        raise ConfigError(
            path, f"{components.kind} {node['name']!r} declares no output_spec", "set self.output_spec = FeatureSpec(...) in its constructor (CONTRIBUTING.md)"
        )
    return built


def _spec_for(parameter: Wired, specs: tuple[Spec, ...], path: str) -> Spec:
    for spec in specs:
        if any(isinstance(spec, SPEC_CLASSES[name]) for name in parameter.specs if name in SPEC_CLASSES):
            return spec
    raise ConfigError(path, f"parameter {parameter.name!r} wants {' or '.join(parameter.specs)}, which nothing before it gives")


def build_dataset(config: "RunConfig") -> "Dataset":
    """The dataset from its options; reads nothing yet."""
    dataset: Dataset = DATASETS.build(config.data, "data")
    if config.loader.teacher is None:
        return dataset
    from zoo.inference.teaching import Taught

    return Taught(dataset, teacher=config.loader.teacher, device=config.trainer.device)


def build_augment(config: "RunConfig") -> "dict[str, Transform]":
    """The random transforms of training, in order."""
    return {label: TRANSFORMS.build(node, f"data.augment.{label}") for label, node in config.augment.items()}


def build_optimizer(config: "RunConfig", model: nn.Module) -> "torch.optim.Optimizer":
    """The optimizer over the model's parameter groups. What ``trainer.freeze`` names for good is frozen and has no part in it."""
    from zoo.optim.freeze import Freezer
    from zoo.optim.groups import ParameterGroups, scale_rates

    Freezer(model, config.trainer)
    try:
        groups = ParameterGroups(model, config.groups)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("optimizer", str(error)) from error
    wired = {parameter.name: groups for parameter in OPTIMIZERS.schema(config.optimizer["name"]).wired}
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(config.optimizer, "optimizer", **wired)
    scale_rates(optimizer)
    return optimizer


def build_schedule(config: "RunConfig", horizon: Horizon) -> "Schedule":
    """The learning rate's multiplier by optimizer step."""
    wired = {parameter.name: horizon for parameter in SCHEDULES.schema(config.schedule["name"]).wired}
    return SCHEDULES.build(config.schedule, "schedule", **wired)  # type: ignore[no-any-return]


def build_callbacks(config: "RunConfig") -> dict[str, Any]:
    return {label: CALLBACKS.build(node, f"callback.{label}") for label, node in config.callbacks.items()}


def build_loggers(config: "RunConfig", run: "RunInfo") -> dict[str, Any]:
    """Followers of the log, by label."""
    wired = {label: {parameter.name: run for parameter in LOGGERS.schema(node["name"]).wired} for label, node in config.loggers.items()}
    return {label: LOGGERS.build(node, f"logger.{label}", **wired[label]) for label, node in config.loggers.items()}


def create(
    name: str,
    *,
    spec: DataSpec | None = None,
    head: str | Mapping[str, Any] | None = None,
    decoder: str | Mapping[str, Any] = "none",
    input: str | None = None,
    target: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    **options: Any,
) -> Model:
    """An untrained model of an encoder or an encoder preset, for data of any kind.

        zoo.create("vit_tiny", num_classes=10, patch_size=8)                      # images: the spec is made from the arguments
        zoo.create("lstm_tiny", spec=DataSpec(inputs=(TextInput(name="text", vocab_size=8000, max_length=128),),
                                              targets=(NumberTarget(name="stars", columns=("stars",), mean=(3.0,), std=(1.0,)),)))

    Args:
        name: encoder or preset, e.g. ``vit_tiny`` (``zoo list encoder``).
        spec: of the data; None for images with one label, of the sizes below.
        head: name, preset or node; None takes the one that fits the target.
        decoder: likewise.
        input: of the data, where the encoder could take several.
        target: of the data, where there are several.
        num_classes: of the head, without a spec; 10.
        image_size: side of the square images, in pixels, without a spec; 32.
        channels: of the images, without a spec; 3.
        options: the encoder's own, on top of the preset's.

    Raises:
        RegistryError, ConfigError: an unknown name or option, or values that do not fit.
    """
    from zoo.config import encoder_node

    node = encoder_node(name, options)
    sizes: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size, "channels": channels}
    if spec is None:
        sizes = {"num_classes": 10, "image_size": 32, "channels": 3} | {key: value for key, value in sizes.items() if value is not None}
        spec = _image_spec(name, node["name"], **sizes)
    elif given := [f"{key}={value}" for key, value in sizes.items() if value is not None]:
        raise ZooError(f"zoo.create({name!r}): spec and {', '.join(given)} say the same thing twice\n  way out: sizes in the spec alone")
    chosen = _node("model/head", head if head is not None else _fitting_head(spec, target))
    return assemble(node, _node("model/decoder", decoder), chosen, spec, ModelSettings(input=input, target=target))


def _image_spec(name: str, encoder: str, num_classes: int, image_size: int, channels: int) -> DataSpec:
    """Of images with one label, for an encoder that takes images."""
    image = ImageInput(name="image", channels=channels, height=image_size, width=image_size)
    if not isinstance(image, takes := accepted(ENCODERS, encoder)):
        wants = f"takes {' or '.join(spec.__name__ for spec in takes)}" if takes else "is made of encoders"
        raise ZooError(
            f"zoo.create({name!r}): encoder {encoder!r} {wants}, and what its data is, only a spec tells\n"
            f"  way out 1: zoo.create({name!r}, spec=DataSpec(inputs=(...,), targets=(...,))), the classes of zoo.specs\n"
            "  way out 2: the spec of data that zoo reads: zoo.build.build_dataset(config).open().spec"
        )
    return DataSpec(inputs=(image,), targets=(ClassTarget(name="label", labels=tuple(str(label) for label in range(num_classes))),))


def _fitting_head(spec: DataSpec, target: str | None) -> str:
    candidates = [entry for entry in spec.targets if target in (None, entry.name)]
    if not candidates:
        raise ZooError(f"the data has no target named {target!r}; it has {', '.join(entry.name for entry in spec.targets) or 'none'}")
    if len(names := fitting_names(HEADS, candidates)) != 1:
        kinds = ", ".join(f"{entry.name} ({entry.kind})" for entry in candidates)
        raise ZooError(f"heads that fit {kinds}: {', '.join(names) or 'none'}\n  way out: head=NAME, and target=NAME where there are several targets")
    return names[0]


def _node(group: str, chosen: str | Mapping[str, Any]) -> dict[str, Any]:
    from zoo.presets import preset_node

    return preset_node(group, chosen) if isinstance(chosen, str) else dict(chosen)


def assemble(encoder: dict[str, Any], decoder: dict[str, Any], head: dict[str, Any], spec: DataSpec, model: ModelSettings | None = None) -> Model:
    """A model from nodes and a spec, without a whole config; nodes are checked here."""
    return build_model(
        Nodes(
            ENCODERS.check_node(encoder, "model.encoder"),
            DECODERS.check_node(decoder, "model.decoder"),
            HEADS.check_node(head, "model.head"),
            model or ModelSettings(),
        ),
        spec,
    )
