"""The contract of heads and decoders, over every registered name."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import DECODER_NAMES, FEATURES, HEAD_CASES, REFUSED_HEADS, HeadCase, fake_features, map_features, outputs, randomised
from zoo.build import writes
from zoo.random import SampleRandom, sample_randomness
from zoo.registry import DECODERS, HEADS
from zoo.structs import Features, LossTerm

PLAIN = [case for case in HEAD_CASES if not case.options]
each_case = pytest.mark.parametrize("case", HEAD_CASES, ids=str)
each_plain = pytest.mark.parametrize("case", PLAIN, ids=str)
VALID = torch.tensor([True, True, False, True, True, False])


def loss(head: Any, features: Features, targets: dict[str, Tensor], valid: Tensor, ids: Tensor | None = None) -> dict[str, LossTerm]:
    with sample_randomness(SampleRandom(0, 3, torch.arange(len(valid)) if ids is None else ids)):
        terms: dict[str, LossTerm] = head.loss(head(features), targets, valid)
    return terms


@pytest.mark.parametrize("name", HEADS.names())
def test_is_documented(name: str) -> None:
    schema = HEADS.schema(name)
    assert schema.summary.endswith(".")
    assert not [option.name for option in schema.options if not option.doc], "options without a line under Args:"
    assert [case for case in HEAD_CASES if case.name == name], f"no example of {schema.wired} in tests/contract/cases.py"


@pytest.mark.parametrize(("case", "error"), REFUSED_HEADS, ids=lambda value: str(value) if isinstance(value, HeadCase) else "")
def test_a_refused_combination_says_what_else(case: HeadCase, error: Exception) -> None:
    assert "choose" in str(error) or "set model." in str(error)


def dropping(case: HeadCase) -> Any:
    """In double precision and training mode, with dropout where it has any."""
    return case.build(**({"dropout": 0.4} if HEADS.schema(case.name).option("dropout") else {})).double().train()


def compares_rows(case: HeadCase) -> bool:
    return bool(getattr(HEADS.load(case.name), "whole_batch", False))


@pytest.mark.parametrize("case", [case for case in HEAD_CASES if compares_rows(case)], ids=str)
def test_a_loss_over_the_whole_batch_depends_on_predictions_alone(case: HeadCase) -> None:
    """R3: rows are predicted one by one, the loss is that of all rows together, in any order, and no parameter takes part in it."""
    head = randomised(dropping(case))
    features, targets = case.data(dtype=torch.float64)
    whole = loss(head, features, targets, VALID)
    chunks = [map_features(features, lambda tensor, rows=rows: tensor[rows]) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    predictions = [head(chunk) for chunk in chunks]
    order = torch.tensor([4, 0, 2, 5, 1, 3])
    joined = {name: torch.cat([prediction[name] for prediction in predictions]).detach()[order] for name in predictions[0]}
    terms = head.loss(joined, {name: target[order] for name, target in targets.items()}, VALID[order])
    assert terms.keys() == whole.keys() == head.count(targets, VALID).keys()
    for name, term in terms.items():
        assert not term.sum.requires_grad, f"a parameter takes part in {name}; give it out as a column of the prediction"
        assert float(term.sum) == pytest.approx(float(whole[name].sum.detach()), rel=1e-12)
        assert float(term.count) == float(head.count(targets, VALID)[name]) > 0


@pytest.mark.parametrize("case", [case for case in HEAD_CASES if not compares_rows(case)], ids=str)
def test_count_is_the_losses_count_and_sums_add_up(case: HeadCase) -> None:
    """R3: sums and counts of chunks add up to the whole batch's, so that the split never matters."""
    head = dropping(case)
    features, targets = case.data(dtype=torch.float64)
    whole, counts = loss(head, features, targets, VALID), head.count(targets, VALID)
    assert counts.keys() == whole.keys()
    sums, parts = dict.fromkeys(whole, 0.0), dict.fromkeys(whole, 0.0)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        chunk = {name: target[rows] for name, target in targets.items()}
        terms = loss(head, map_features(features, lambda tensor, rows=rows: tensor[rows]), chunk, VALID[rows], torch.arange(6)[rows])
        for name, term in terms.items():
            assert term.sum.isfinite()
            torch.testing.assert_close(term.count, head.count(chunk, VALID[rows])[name], rtol=0, atol=0)
            sums[name] += float(term.sum.detach())
            parts[name] += float(term.count)
    for name, term in whole.items():
        assert term.sum.dim() == term.count.dim() == 0
        torch.testing.assert_close(term.count, counts[name], rtol=0, atol=0)
        assert float(term.sum.detach()) == pytest.approx(sums[name], rel=1e-9)
        assert float(term.count) == pytest.approx(parts[name], rel=1e-6)
        assert float(term.count) > 0


@each_case
def test_rows_that_only_pad_count_nowhere(case: HeadCase) -> None:
    """R7: neither in losses, nor in gradients, nor in metrics."""
    head = randomised(case.build().double())
    features, targets = case.data(dtype=torch.float64)
    changed = map_features(
        features, lambda tensor: torch.where(VALID.view(-1, *[1] * (tensor.dim() - 1)), tensor, tensor.flip(0)) if tensor.is_floating_point() else tensor
    )
    other = {name: torch.where(VALID.view(-1, *[1] * (target.dim() - 1)), target, target.flip(0)) for name, target in targets.items()}
    before, after = loss(head, features, targets, VALID), loss(head, changed, other, VALID)
    for name in before:
        torch.testing.assert_close(before[name].sum, after[name].sum, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(before[name].count, after[name].count)
    empty = loss(head, features, targets, torch.zeros(6, dtype=torch.bool))
    assert all(float(term.sum.detach()) == 0 and float(term.count) == 0 for term in empty.values())
    head.eval()
    figures = []
    for given, wanted in ((features, targets), (changed, other)):
        metrics = head.metrics()
        metrics.update(head(given), wanted, VALID)
        metrics.update(head(given), wanted, torch.zeros(6, dtype=torch.bool))
        figures.append(metrics.compute())
    assert figures[0] == figures[1]


@each_plain
def test_metrics_do_not_depend_on_the_batch_size(case: HeadCase) -> None:
    """R7."""
    head = randomised(case.build().double()).eval()
    features, targets = case.data(18, dtype=torch.float64)
    valid = VALID.repeat(3)
    figures = []
    for size in (18, 5, 1):
        metrics = head.metrics()
        for start in range(0, 18, size):
            rows = slice(start, start + size)
            part = map_features(features, lambda tensor, rows=rows: tensor[rows])
            metrics.update(head(part), {name: target[rows] for name, target in targets.items()}, valid[rows])
        metrics.merge()
        figures.append(metrics.compute())
        json.dumps(metrics.tables())
    assert figures[0] == pytest.approx(figures[1], nan_ok=True)
    assert figures[0] == pytest.approx(figures[2], nan_ok=True)
    monitor, mode = head.monitor
    assert monitor in figures[0]
    assert mode in ("min", "max")
    assert head.protocol
    assert "\n" not in head.protocol
    assert head.target is case.spec


@each_case
def test_every_parameter_gets_a_gradient(case: HeadCase) -> None:
    head = randomised(case.build())
    features, targets = case.data(24)
    total: Tensor = sum(term.sum / term.count for term in loss(head, features, targets, torch.ones(24, dtype=torch.bool)).values())  # type: ignore[assignment]
    if parameters := dict(head.named_parameters()):  # a head may have none: an embedding's is the encoder's work
        total.backward()
    assert not [name for name, parameter in parameters.items() if parameter.grad is None or not bool(parameter.grad.any())]


@each_case
def test_runs_on_meta(case: HeadCase) -> None:
    with torch.device("meta"):
        head = case.build()
        features, targets = case.data(device="meta")
        valid = torch.ones(6, dtype=torch.bool)
        for mode in (True, False):
            prediction = head.train(mode)(features)
            assert all(tensor.shape[0] == 6 for tensor in prediction.values())
            terms = head.loss(prediction, targets, valid)
            assert terms.keys() == head.count(targets, valid).keys()


@each_plain
def test_bf16_gives_near_losses(case: HeadCase) -> None:
    head = randomised(case.build()).eval()
    features, targets = case.data()
    exact = loss(head, features, targets, VALID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = loss(head, features, targets, VALID)
    for name, term in exact.items():
        assert near[name].sum.dtype is torch.float32
        assert float(near[name].sum.detach()) == pytest.approx(float(term.sum.detach()), rel=0.03)


@each_plain
def test_answers_are_plain_values(case: HeadCase) -> None:
    head = case.build().eval()
    features, targets = case.data()
    for known in (targets, {}):
        answers = head.decode(head(features), known)
        assert len(answers) == 6
        assert json.loads(json.dumps(answers)) == answers


@pytest.mark.parametrize("name", [name for name in DECODER_NAMES if not writes(name)])
@pytest.mark.parametrize("features", FEATURES)
def test_decoder_declares_what_it_gives(name: str, features: str) -> None:
    spec = FEATURES[features]
    decoder = DECODERS.build(DECODERS.check_node({"name": name}, "model.decoder"), "model.decoder", features=spec)
    given = decoder(fake_features(spec, [9, 4, 1]))
    measured = [tuple(tensor.shape) for tensor in outputs(given)]
    assert measured == [tuple(tensor.shape) for tensor in outputs(fake_features(decoder.output_spec, [9, 4, 1]))]
    assert replace(decoder.output_spec) == decoder.output_spec
