"""The contract of encoders that are made of encoders, over every registered name: what that of encoders asks, and what absent inputs ask."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.contract.cases import COMPOSITES, INPUTS, TARGETS, double, enum_variants, outputs, randomised
from zoo.build import Nodes, build_model
from zoo.config import encoder_node
from zoo.data.fake import fake_batch
from zoo.errors import ConfigError
from zoo.layers.dropout import name_randomness
from zoo.model import Model
from zoo.optim.groups import ParameterGroups
from zoo.presets import conf_dir
from zoo.random import SampleRandom, sample_randomness
from zoo.registry import DECODERS, ENCODERS, HEADS
from zoo.specs import DataSpec, Layout
from zoo.structs import Batch, Features, Values

IMAGE_TEXT, ALL = ("image8", "text"), ("image8", "text", "spectrogram", "table")
NESTED = {"image8": "cnn_tiny", "text": "lstm_tiny", "spectrogram": "audio_cnn_tiny", "table": "table_tiny"}


@dataclass(frozen=True)
class Case:
    """A composite on several kinds of input, of which a batch's rows lack some."""

    name: str
    inputs: tuple[str, ...] = IMAGE_TEXT
    options: dict[str, Any] = field(default_factory=dict)
    optional: bool = True

    @property
    def spec(self) -> DataSpec:
        return DataSpec(inputs=tuple(replace(INPUTS[label], optional=self.optional) for label in self.inputs), targets=(TARGETS["single"],))

    def build(self, seed: int = 0, **options: Any) -> Model:
        torch.manual_seed(seed)
        parts = {INPUTS[label].name: encoder_node(NESTED[label], {}) for label in self.inputs}
        node = encoder_node(f"{self.name}_tiny", {"encoders": parts} | self.options | options)
        node["encoders"] = {name: node["encoders"][name] for name in parts}
        nodes = Nodes(node, DECODERS.check_node({"name": "none"}, "model.decoder"), HEADS.check_node({"name": "classification"}, "model.head"))
        model = build_model(nodes, self.spec)
        name_randomness(model)
        return model

    def batch(self, size: int = 8, lengths: list[int] | None = None) -> Batch:
        return fake_batch(self.spec, size, lengths=lengths or ([5, 17, 1, 8, 3, 9, 2, 11] * size)[:size])

    def __str__(self) -> str:
        joined = "+".join(self.inputs)
        return "-".join([self.name, joined, *(f"{key}={value}" for key, value in self.options.items()), *([] if self.optional else ["complete"])])


def needs_all(case: Case) -> bool:
    return bool(getattr(ENCODERS.load(case.name), "needs_all", False))


def cases() -> list[Case]:
    found = []
    for name in COMPOSITES:
        if needs_all(Case(name)):
            found += [Case(name, optional=False), *(Case(name, options=options, optional=False) for options in enum_variants(ENCODERS, name))]
            continue
        found += [Case(name), Case(name, ALL), Case(name, optional=False), *(Case(name, options=options) for options in enum_variants(ENCODERS, name))]
        if ENCODERS.schema(name).option("depth"):
            deep = {"combine": "tokens", "depth": 2}
            found += [Case(name, ALL, deep), Case(name, ALL, deep | {"absent": "skip"}), Case(name, options=deep, optional=False)]
    return found


each = pytest.mark.parametrize("case", cases(), ids=str)
each_that_does_without = pytest.mark.parametrize("case", [case for case in cases() if not needs_all(case)], ids=str)


def encoded(model: Model, batch: Batch) -> list[Tensor]:
    with sample_randomness(SampleRandom(1, 7, batch.ids)), torch.no_grad():
        return outputs(model.encode(batch.inputs))


def doubled(batch: Batch) -> Batch:
    return replace(batch, inputs={name: double(values) for name, values in batch.inputs.items()})


def gradients(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Of the loss with the whole encoder's output in it; zeros where there is none."""
    model.zero_grad()
    with sample_randomness(SampleRandom(1, 7, batch.ids)):
        terms = model.losses(batch)
    sum(term.sum for term in terms.values()).backward()  # type: ignore[union-attr]
    return {name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone() for name, parameter in model.named_parameters()}


def filled(batch: Batch, fill: float) -> Batch:
    """Absent rows hold something else, and are real all along."""

    def change(values: Values) -> Values:
        if values.present is None:
            return values
        lacks = ~values.present
        junk = values.apply(torch.clone)
        for tensor in junk.values.values() if isinstance(junk.values, dict) else (junk.values,):
            tensor[lacks] = fill if tensor.is_floating_point() else 2
        if junk.mask is not None:
            junk.mask[lacks] = True
        return replace(junk, present=values.present)

    return replace(batch, inputs={name: change(values) for name, values in batch.inputs.items()})


def test_there_are_composites() -> None:
    assert {"fusion", "dual"} <= set(COMPOSITES)
    for name in COMPOSITES:
        assert (conf_dir() / f"model/encoder/{name}_tiny.yaml").is_file()


@each
def test_declared_is_measured(case: Case) -> None:
    model, batch = case.build().eval(), case.batch()
    spec: Any = model.encoder.output_spec
    features: Features = model.encode(batch.inputs)
    assert (features.pooled is not None) == spec.pooled
    if features.pooled is not None:
        assert features.pooled.shape == (8, spec.dim)
    if spec.layout is Layout.SEQUENCE:
        assert features.tokens is not None
        assert features.tokens.shape[::2] == (8, spec.dim)
        assert features.mask is None or features.mask.shape == features.tokens.shape[:2]
    with torch.device("meta"):
        shadow = case.build()
    found = shadow.encode(fake_batch(case.spec, 8, device="meta", lengths=[5, 17, 1, 8, 3, 9, 2, 11]).inputs)
    assert [tensor.shape for tensor in outputs(found)] == [tensor.shape for tensor in outputs(features)]


@each
def test_what_an_absent_row_holds_changes_nothing(case: Case) -> None:
    """R9: neither an output nor a gradient, to the bit, be it junk, infinite or not a number."""
    model, batch = case.build().train(), case.batch()
    randomised(model)
    assert case.optional == any(values.present is not None for values in batch.inputs.values())
    before = encoded(model, batch)
    wanted = gradients(model, batch)
    for fill in (7.0, float("inf"), float("nan")):
        junk = filled(batch, fill)
        for first, second in zip(before, encoded(model, junk), strict=True):
            assert torch.equal(first, second)
        found = gradients(model, junk)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@each
def test_a_present_row_counts(case: Case) -> None:
    """The same change in rows that have the input is seen in each of them, and in no other."""
    model, batch = case.build().eval().double(), doubled(case.batch())
    randomised(model)
    for name, values in batch.inputs.items():
        present = torch.ones(8, dtype=torch.bool) if values.present is None else values.present
        other = values.apply(lambda tensor: tensor + 1.5 if tensor.is_floating_point() else tensor if tensor.dtype is torch.bool else (tensor + 1) % 4)
        changed = replace(batch, inputs=batch.inputs | {name: replace(other, present=values.present)})
        first, second = encoded(model, batch)[0], encoded(model, changed)[0]
        assert torch.equal((first != second).flatten(1).any(dim=1), present)


@each
def test_alone_is_in_a_batch(case: Case) -> None:
    """R8: a row alone, cut to its length, and among others; with what others lack, and where a whole batch lacks a part."""
    model, batch = case.build().eval().double(), doubled(case.batch())
    randomised(model)
    prediction = model(batch.inputs)["logits"]
    for place in range(8):
        alone = batch.rows(place, place + 1)
        for name, values in alone.inputs.items():
            if values.mask is not None and isinstance(values.values, Tensor):
                length = int(values.mask.sum())
                alone = replace(alone, inputs=alone.inputs | {name: Values(values.values[..., :length], values.mask[:, :length], values.present)})
        torch.testing.assert_close(model(alone.inputs)["logits"], prediction[place : place + 1], rtol=1e-9, atol=1e-9)


@each
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    model = case.build()
    found = gradients(randomised(model), case.batch())  # type: ignore[arg-type]
    spare = ("encoder.absent",) if not case.optional else ()
    assert not [name for name, gradient in found.items() if not bool(gradient.any()) and name not in spare]


@each_that_does_without
def test_a_part_that_a_whole_batch_lacks(case: Case) -> None:
    """R9: all parameters have a gradient, zeros for the part; with absent=skip they have none, and the part does not run."""
    model, batch = case.build(), case.batch()
    for name in (INPUTS[label].name for label in case.inputs):
        nobody = torch.zeros(8, dtype=torch.bool)
        lacking = replace(batch, inputs=batch.inputs | {name: replace(batch.inputs[name], present=nobody)})
        skips = bool(getattr(model.encoder, "skips_parts", False))
        runs = []
        part: Any = model.encoder.get_submodule(f"encoders.{name}")
        handle = part.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        found = gradients(model, lacking)
        handle.remove()
        own = dict(part.named_parameters())
        assert len(runs) == (0 if skips else 1)
        assert all((parameter.grad is None) == skips for parameter in own.values())
        assert not any(bool(found[f"encoder.encoders.{name}.{key}"].any()) for key in own)
        if not skips:
            assert all(parameter.grad is not None for parameter in model.parameters())


@each
def test_the_same_operations_whatever_a_batch_holds(case: Case) -> None:
    """Sharded training needs them: a batch that lacks nothing gives every parameter a gradient too, unless the composite says that it skips parts."""
    model, batch = case.build(), case.batch()
    complete = replace(batch, inputs={name: replace(values, present=None) for name, values in batch.inputs.items()})
    gradients(model, complete)
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert bool(without) == bool(getattr(model.encoder, "skips_parts", False))


@each_that_does_without
def test_rows_that_have_everything_do_not_see_what_stands_for_absence(case: Case) -> None:
    """What the rows of a complete batch give is what they give beside rows that lack something, whatever the learned vectors are."""
    model, batch = randomised(case.build().eval().double()), doubled(case.batch())
    have = torch.stack([torch.ones(8, dtype=torch.bool) if values.present is None else values.present for values in batch.inputs.values()]).all(dim=0)
    before = model(batch.inputs)["logits"]
    with torch.no_grad():
        model.encoder.absent.add_(3.0)  # type: ignore[operator, union-attr]
    after = model(batch.inputs)["logits"]
    assert torch.equal((before == after).all(dim=1), have)


@each
def test_dropout_belongs_to_samples(case: Case) -> None:
    """R3, R23: the same masks in one batch of eight, and in parts with other padding, where a part may lack an input altogether."""
    parts = {INPUTS[label].name: encoder_node(NESTED[label], {"dropout": 0.4}) for label in case.inputs}
    deep = {"dropout": 0.4} if case.options.get("depth") else {}
    model = randomised(case.build(encoders=parts, **deep).train().double())
    batch = doubled(case.batch())

    def loss(part: Batch) -> Tensor:
        with sample_randomness(SampleRandom(1, 7, part.ids)):
            return model(part.inputs)["logits"]  # type: ignore[no-any-return]

    whole = loss(batch)
    for start, stop in ((0, 1), (1, 2), (2, 5), (5, 8)):
        part = batch.rows(start, stop)
        longest = {name: int(values.mask.sum(1).max()) for name, values in part.inputs.items() if values.mask is not None}
        cut = {
            name: Values(values.values[..., : longest[name]], values.mask[:, : longest[name]], values.present)  # type: ignore[index]
            if name in longest
            else values
            for name, values in part.inputs.items()
        }
        torch.testing.assert_close(loss(replace(part, inputs=cut)), whole[start:stop], rtol=1e-9, atol=1e-9)


@each
def test_weight_decay_spares_learned_vectors(case: Case) -> None:
    with torch.device("meta"):
        groups = ParameterGroups(case.build())
    assert not {"encoder.absent", "encoder.kinds"} & set(groups.decayed)


@each
def test_save_and_load_are_exact(case: Case, tmp_path: Path) -> None:
    first, second = case.build(seed=1).eval(), case.build(seed=2).eval()
    batch = case.batch()
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    assert not torch.equal(first(batch.inputs)["logits"], second(batch.inputs)["logits"])
    second.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(first(batch.inputs)["logits"], second(batch.inputs)["logits"])


@pytest.mark.parametrize("name", [name for name in COMPOSITES if needs_all(Case(name))])
def test_absent_inputs_are_refused_where_every_row_needs_all(name: str) -> None:
    with pytest.raises(ConfigError, match=r"may lack the input 'image', and encoder '\w+' needs it in every row") as told:
        Case(name).build()
    assert len(told.value.ways_out) == 1  # no other encoder in its place would compare the two
    assert "data.optional=[]" in told.value.ways_out[0]


def test_two_towers_are_two() -> None:
    with pytest.raises(ConfigError, match=r"names image, text, audio, table, and two inputs are needed.*choose one encoder for each of two"):
        Case("dual", ALL, optional=False).build()
    with pytest.raises(ConfigError, match="made of encoders itself; choose one of a single input"):
        Case("dual", optional=False).build(encoders={"image": {"name": "fusion", "encoders": {"text": {"name": "lstm"}}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 1}, "depth=1 blocks need a sequence.*combine=tokens"),
        ({"encoders": {"image": {"name": "cnn", "norm": "batch"}}}, r"encoders\.image takes statistics over the batch .*group or layer norm"),
        ({"encoders": {"image": {"name": "fusion", "encoders": {"text": {"name": "lstm"}}}}}, "made of encoders itself; list all of them here"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Case("fusion").build(**options)
