"""What the contract tests run over: every registered component, on every kind of data that it takes, in every variant that an enum offers.

A new component becomes a case by being registered; a new kind of input or target needs an example here.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.build import accepted
from zoo.config import encoder_node
from zoo.data.fake import fake_batch
from zoo.errors import ConfigError
from zoo.layers.dropout import key_foreign, name_randomness
from zoo.registry import DECODERS, ENCODERS, HEADS
from zoo.specs import (
    AnswerTarget,
    ClassTarget,
    ContextTarget,
    DataSpec,
    FeatureSpec,
    HistoryInput,
    ImageInput,
    InputSpec,
    ItemTarget,
    Labelling,
    Layout,
    MapSpec,
    MaskedTarget,
    NumberTarget,
    PairInput,
    PairTarget,
    SpectrogramInput,
    TableInput,
    TagTarget,
    TargetSpec,
    TaughtTarget,
    TextInput,
    TokenTarget,
)
from zoo.structs import Batch, Features, Values

INPUTS: dict[str, InputSpec] = {
    "image8": ImageInput(name="image", channels=1, height=8, width=8),
    "image28": ImageInput(name="image", channels=1, height=28, width=28),
    "image32": ImageInput(name="image", channels=3, height=32, width=32),
    "wide": ImageInput(name="image", channels=3, height=16, width=32),
    "text": TextInput(name="text", vocab_size=50, max_length=40),
    "pair": PairInput(name="text", vocab_size=50, max_length=40, separator=3, columns=("question", "context")),
    "history": HistoryInput(name="history", vocab_size=31, max_length=40),
    "spectrogram": SpectrogramInput(name="audio", n_mels=20, max_frames=90, frame_rate=100.0),
    "table": TableInput(name="table", numbers=3, categories=(4, 7)),
    "numbers": TableInput(name="table", numbers=3),
}
TARGETS: dict[str, TargetSpec] = {
    "single": ClassTarget(name="label", labels=("a", "b", "c", "d", "e", "f", "g"), counts=(5, 9, 1, 0, 30, 2, 3)),
    "taught": TaughtTarget(name="label", labels=("a", "b", "c", "d"), counts=(5, 9, 1, 2)),
    "multi": ClassTarget(name="tags", labels=("x", "y", "z"), labelling=Labelling.MULTI, counts=(10, 20, 70)),
    "numbers": NumberTarget(name="sizes", columns=("height", "width"), mean=(170.0, -3.0), std=(12.0, 0.5)),
    "item": ItemTarget(name="next", num_items=30),
    "pair": PairTarget(name="pair"),
    "parts of speech": TagTarget(name="tags", labels=("noun", "verb", "sign")),
    "spans": TagTarget(name="tags", labels=("O", "B-place", "I-place", "B-person", "I-person")),
    "answer": AnswerTarget(name="answer"),
    "masked": MaskedTarget(name="masked", vocab_size=40),
    "token": TokenTarget(name="next", vocab_size=40),
    "context": ContextTarget(name="context", vocab_size=40, counts=(0, 0, *range(1, 39))),
}
FEATURES: dict[str, FeatureSpec] = {
    "vector": FeatureSpec(dim=12, layout=Layout.VECTOR, pooled=True),
    "sequence": FeatureSpec(dim=12, layout=Layout.SEQUENCE),
    "pooled_sequence": FeatureSpec(dim=12, layout=Layout.SEQUENCE, length=9, pooled=True),
    "parts": FeatureSpec(dim=12, layout=Layout.SEQUENCE, length=2, parts=("image", "text")),
    "causal": FeatureSpec(dim=12, layout=Layout.SEQUENCE, causal=True),
    "local": FeatureSpec(dim=12, layout=Layout.SEQUENCE, causal=True, local=True),
    "map": FeatureSpec(dim=12, layout=Layout.MAP, maps=(MapSpec(channels=6, stride=1), MapSpec(channels=12, stride=2))),
}
FOREIGN = {"timm", "torchvision"}
"""Encoders whose layers are another library's: their dropout is drawn from torch's generator, not by sample."""

LENGTHS = [5, 17, 1, 8]
TABLE_ROWS = 43
"""Of a table that outputs are tied to: more than there are entries."""


@dataclass(frozen=True)
class EncoderCase:
    name: str
    input: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> InputSpec:
        return INPUTS[self.input]

    def build(self, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        node = ENCODERS.check_node(encoder_node(f"{self.name}_tiny", self.options | options), "model.encoder")
        wired = {parameter.name: self.spec for parameter in ENCODERS.schema(self.name).wired}
        encoder = ENCODERS.build(node, "model.encoder", **wired)
        key_foreign(encoder)  # as Model does it
        name_randomness(encoder)
        return encoder

    def values(self, size: int = 4, lengths: list[int] | None = None, device: str = "cpu") -> Values:
        return self.batch(size, lengths, device).inputs[self.spec.name]

    def batch(self, size: int = 4, lengths: list[int] | None = None, device: str = "cpu") -> Batch:
        return fake_batch(DataSpec(inputs=(self.spec,), targets=()), size, device, lengths=lengths)

    def dropouts(self) -> dict[str, float]:
        """Every probability of leaving something out, raised."""
        return (
            {}
            if self.name in FOREIGN
            else {option.name: 0.4 for option in ENCODERS.schema(self.name).options if option.name.split("_")[0].startswith("drop") or "dropout" in option.name}
        )

    def __str__(self) -> str:
        return "-".join([self.name, self.input, *(f"{key}={value}" for key, value in self.options.items())])


@dataclass(frozen=True)
class HeadCase:
    name: str
    target: str
    features: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> TargetSpec:
        return TARGETS[self.target]

    def build(self, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        node = HEADS.check_node({"name": self.name} | self.options | options, "model.head")
        wired = {parameter.name: FEATURES[self.features] if "FeatureSpec" in parameter.specs else self.spec for parameter in HEADS.schema(self.name).wired}
        head: Any = HEADS.build(node, "model.head", **wired)
        if getattr(head, "tied", False):  # the table of a part before it, here a part of the head, so that it is moved and trained with it
            head.table_before = nn.Embedding(TABLE_ROWS, FEATURES[self.features].dim)
            head.tie(head.table_before)
        name_randomness(head)
        return head

    def data(self, size: int = 6, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Features, dict[str, Tensor]]:
        lengths = ([9, 4, 1, 7, 2, 9] * size)[:size]
        batch = fake_batch(DataSpec(inputs=(), targets=(self.spec,)), size, lengths=lengths)
        features = fake_features(FEATURES[self.features], lengths, dtype)
        return map_features(features, lambda tensor: tensor.to(device)), {name: target.to(device) for name, target in batch.targets.items()}

    def __str__(self) -> str:
        return "-".join([self.name, self.target, self.features, *(f"{key}={value}" for key, value in self.options.items())])


def fake_features(spec: FeatureSpec, lengths: list[int], dtype: torch.dtype = torch.float32) -> Features:
    generator = torch.Generator().manual_seed(3)
    size, longest = len(lengths), spec.length or max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    draw = lambda *shape: torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return Features(
        tokens=draw(longest, spec.dim) if spec.layout is Layout.SEQUENCE else None,
        mask=mask if spec.layout is Layout.SEQUENCE and spec.length is None else None,
        pooled=draw(spec.dim) if spec.pooled else None,
        maps=tuple(draw(level.channels, 8 // level.stride, 8 // level.stride) for level in spec.maps),
    )


def map_features(features: Features, change: Any) -> Features:
    tokens, mask, pooled = (None if tensor is None else change(tensor) for tensor in (features.tokens, features.mask, features.pooled))
    return Features(tokens=tokens, mask=mask, pooled=pooled, maps=tuple(change(level) for level in features.maps))


def enum_variants(kind: Any, name: str) -> list[dict[str, Any]]:
    """One changed option at a time: each choice of each enum. What needs a download is none."""
    return [
        {option.name: choice}
        for option in kind.schema(name).options
        if option.type.form == "enum"
        for choice in option.type.choices
        if choice not in (option.default, "pretrained")
    ]


def encoder_inputs(name: str) -> list[str]:
    return [label for label, spec in INPUTS.items() if isinstance(spec, accepted(ENCODERS, name))]


def encoder_cases() -> tuple[list[EncoderCase], list[tuple[EncoderCase, ConfigError]]]:
    """Those that build, and those that the constructor refuses with its reason."""
    cases, refused = [], []
    for name in (name for name in ENCODERS.names() if name not in COMPOSITES):
        labels = encoder_inputs(name)
        for case in [EncoderCase(name, label) for label in labels] + [EncoderCase(name, labels[0], options) for options in enum_variants(ENCODERS, name)]:
            try:
                with torch.device("meta"):
                    case.build()
                cases.append(case)
            except ConfigError as error:
                refused.append((case, error))
    return cases, refused


def head_cases() -> tuple[list[HeadCase], list[tuple[HeadCase, ConfigError]]]:
    cases, refused = [], []
    for name in HEADS.names():
        labels = [label for label, spec in TARGETS.items() if isinstance(spec, accepted(HEADS, name))]
        for label in labels:
            for features in FEATURES:
                for options in [{}, *enum_variants(HEADS, name)]:
                    case = HeadCase(name, label, features, options)
                    try:
                        case.build()
                        cases.append(case)
                    except ConfigError as error:
                        refused.append((case, error))
    return cases, refused


COMPOSITES = [name for name in ENCODERS.names() if not accepted(ENCODERS, name)]
"""Encoders made of encoders: tests/contract/test_composite_contract.py."""
ENCODER_CASES, REFUSED_ENCODERS = encoder_cases()
HEAD_CASES, REFUSED_HEADS = head_cases()
DECODER_NAMES = DECODERS.names()


def outputs(features: Features) -> list[Tensor]:
    """Everything that features hold, padding as zeros."""
    tokens = features.tokens if features.tokens is None or features.mask is None else torch.where(features.mask[..., None], features.tokens, 0.0)
    return [tensor for tensor in (tokens, features.pooled, *features.maps) if tensor is not None]


def double(values: Values) -> Values:
    return values.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def randomised(module: nn.Module) -> nn.Module:
    """Weights of size .5 and no zeros, so that every layer matters to the result."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2)
    return module
