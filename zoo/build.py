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
from zoo.specs import INPUT_KINDS, TARGET_KINDS, ClassTarget, DataSpec, FeatureSpec, Horizon, ImageInput, InputSpec, Spec, TargetSpec, TokenInput

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
        decoder: Any = _build(DECODERS, config.decoder, "model.decoder", encoder.output_spec)
        target = choose(HEADS, config.head["name"], spec.targets, config.model.target, "model.target")
        head: Any = _build(HEADS, config.head, "model.head", decoder.output_spec, target)
    return Model(encoder=encoder, decoder=decoder, head=head, input=inputs)


def build_encoder(node: dict[str, Any], spec: DataSpec, wanted: str | None = None) -> tuple[Any, tuple[str, ...]]:
    """An encoder and the names of the inputs that it takes: its own, or those of the encoders that it is made of.

    A nested encoder takes the input that its label names, or else the only one that fits it.
    """
    inputs: list[str] = []

    def wire(components: Registry, nested: Mapping[str, Any], path: str) -> dict[str, Any]:
        wired = components.schema(nested["name"]).wired
        if components is not ENCODERS or not accepted(ENCODERS, nested["name"]):
            return {parameter.name: _spec_for(parameter, (), path) for parameter in wired}
        label = path.rpartition(".")[2]
        chosen = choose(ENCODERS, nested["name"], spec.inputs, label if label in {entry.name for entry in spec.inputs} else None, path, nested=True)
        inputs.append(chosen.name)
        return {parameter.name: _spec_for(parameter, (chosen,), path) for parameter in wired}

    if not accepted(ENCODERS, node["name"]) and any(option.type.holds("encoder") for option in ENCODERS.schema(node["name"]).options):
        if wanted is not None:
            raise ConfigError("model.input", f"encoder {node['name']!r} is made of encoders with inputs of their own, so that {wanted!r} chooses none")
        return _build(ENCODERS, node, "model.encoder", wire=wire), tuple(dict.fromkeys(inputs))
    chosen = choose(ENCODERS, node["name"], spec.inputs, wanted, "model.input")
    return _build(ENCODERS, node, "model.encoder", chosen, wire=wire), tuple(dict.fromkeys([chosen.name, *inputs]))


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
    raise ConfigError(
        path if nested else components.group.replace("/", "."),
        f"{components.kind} {name!r} takes {needs}, but the data gives {has}",
        f"choose {article(components.kind)} that fits: {components.group}=" + "|".join(others)
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
    return DATASETS.build(config.data, "data")  # type: ignore[no-any-return]


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


def create(name: str, *, num_classes: int, image_size: int = 32, channels: int = 3, **options: Any) -> Model:
    """An untrained model of an encoder or an encoder preset, with a classification head.

    Args:
        name: encoder or preset, e.g. ``vit_tiny`` (``zoo list encoder``).
        num_classes: classes of the head.
        image_size: side of the square images, in pixels, where the encoder takes images.
        channels: of the images.
        options: the encoder's own, on top of the preset's.

    Raises:
        RegistryError, ConfigError: an unknown name or option, or values that do not fit.
    """
    from zoo.config import encoder_node

    node = encoder_node(name, options)
    takes = accepted(ENCODERS, node["name"])
    image = ImageInput(name="image", channels=channels, height=image_size, width=image_size)
    if not isinstance(image, takes):
        raise ZooError(
            f"zoo.create builds models of images; {node['name']!r} takes {' or '.join(spec.__name__ for spec in takes)}: use zoo.build.assemble with a DataSpec"
        )
    target = ClassTarget(name="label", labels=tuple(str(label) for label in range(num_classes)))
    return assemble(node, {"name": "none"}, {"name": "classification"}, DataSpec(inputs=(image,), targets=(target,)))


def assemble(encoder: dict[str, Any], decoder: dict[str, Any], head: dict[str, Any], spec: DataSpec) -> Model:
    """A model from nodes and a spec, without a whole config; nodes are checked here."""
    return build_model(
        Nodes(ENCODERS.check_node(encoder, "model.encoder"), DECODERS.check_node(decoder, "model.decoder"), HEADS.check_node(head, "model.head")), spec
    )
