"""Fake batches have the form that specs state."""

import pytest
import torch

from tests.contract.cases import INPUTS, TARGETS
from zoo.data.fake import fake_batch
from zoo.specs import ClassTarget, DataSpec, HistoryInput, ItemTarget, TableInput, TokenInput
from zoo.structs import Batch

SPECS = [DataSpec(inputs=(entry,), targets=tuple(TARGETS.values())) for entry in INPUTS.values()]


def shapes(batch: Batch) -> list[torch.Size]:
    found: list[torch.Size] = []
    batch.apply(lambda tensor: (found.append(tensor.shape), tensor)[1])
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.inputs[0].name + spec.inputs[0].kind)
def test_values_are_in_range_and_repeat(spec: DataSpec) -> None:
    batch = fake_batch(spec, 50)
    again = fake_batch(spec, 50)
    entry, values = spec.inputs[0], batch.inputs[spec.inputs[0].name]
    if isinstance(values.values, dict):
        assert isinstance(entry, TableInput)
        assert values.values["numbers"].shape == (50, entry.numbers)
        assert bool((values.values["categories"] < torch.tensor(entry.categories)).all())
    else:
        other = again.inputs[entry.name].values
        assert isinstance(other, torch.Tensor)
        assert torch.equal(values.values, other)
    if isinstance(entry, TokenInput):
        assert isinstance(values.values, torch.Tensor)
        assert values.mask is not None
        assert values.values.dtype is torch.int64
        assert int(values.values.max()) < entry.vocab_size
        assert values.values.shape[1] <= entry.max_length
        assert torch.equal(values.values != entry.pad_id, values.mask)
    for target in spec.targets:
        assert target.name in batch.targets
        if isinstance(target, ClassTarget) and target.labelling == "single":
            assert 0 <= int(batch.targets[target.name].min()) <= int(batch.targets[target.name].max()) < target.num_classes


def test_meta_has_the_same_shapes_and_no_values() -> None:
    for spec in SPECS:
        with torch.device("meta"):
            batch = fake_batch(spec, 3, "meta", seed=4)
        assert shapes(batch) == shapes(fake_batch(spec, 3, seed=4))
        assert batch.ids.is_meta


def test_lengths_are_as_asked_and_items_follow_the_history() -> None:
    spec = DataSpec(inputs=(HistoryInput(name="history", vocab_size=9, max_length=20),), targets=(ItemTarget(name="next", num_items=8),))
    batch = fake_batch(spec, 3, lengths=[4, 1, 2])
    mask = batch.inputs["history"].mask
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [4, 1, 2]
    assert torch.equal(batch.targets["next"] > 0, mask)
    assert batch.targets["seen"].shape == (3, 4)
