"""What the trace of a step says is what torch itself counts in a real one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from zoo.build import assemble
from zoo.data.fake import fake_batch
from zoo.model import Model
from zoo.parallel.recompute import recompute_blocks
from zoo.plan import workload as workloads
from zoo.plan.operations import Kind, Phase, attention_flops
from zoo.plan.shapes import TransformerShape
from zoo.plan.trace import Numbers, trace_step
from zoo.plan.workload import of_model, of_shape
from zoo.settings import Recompute
from zoo.specs import ClassTarget, DataSpec, ImageInput, TextInput
from zoo.structs import Batch

LABEL = ClassTarget(name="label", labels=("a", "b", "c"))
TEXT = DataSpec(inputs=(TextInput(name="text", vocab_size=100, max_length=24),), targets=(LABEL,))
IMAGE = DataSpec(inputs=(ImageInput(name="image", channels=3, height=32, width=32),), targets=(LABEL,))
CASES: dict[str, tuple[dict[str, Any], DataSpec]] = {
    "transformer": ({"name": "transformer", "dim": 32, "depth": 3, "heads": 2}, TEXT),
    "swiglu": ({"name": "transformer", "dim": 32, "depth": 3, "heads": 2, "activation": "swiglu", "positions": "rotary"}, TEXT),
    "vit": ({"name": "vit", "dim": 32, "depth": 3, "heads": 2, "patch_size": 8}, IMAGE),
    "cnn": ({"name": "cnn"}, IMAGE),
    "mlp": ({"name": "mlp"}, IMAGE),
}


def built(name: str) -> tuple[Model, Batch]:
    encoder, spec = CASES[name]
    return assemble(encoder, {"name": "none"}, {"name": "classification"}, spec), fake_batch(spec, 4, lengths=[24] * 4)


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), fused=True)


@pytest.mark.parametrize(("name", "checkpointing"), [(name, kind) for name in CASES for kind in Recompute if name != "mlp" or kind == "none"])
def test_flops_are_those_that_torch_counts_in_a_real_step(name: str, checkpointing: Recompute) -> None:
    model, batch = built(name)
    trace = trace_step(model, batch, checkpointing=checkpointing)
    recompute_blocks(model, checkpointing)
    with FlopCounterMode(display=False) as counter:
        for term in model.losses(batch).values():
            term.sum.backward()
    assert sum(operation.work for operation in trace.operations) == counter.get_total_flops() > 0


def test_the_model_and_the_batch_are_not_touched() -> None:
    model, batch = built("transformer")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace_step(model, batch, optimizer=adamw, checkpointing=Recompute.FULL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert next(iter(model.losses(batch).values())).sum.isfinite()  # and it still runs, without the checkpoint's wrapping
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("shape", [(2, 4, 16, 16, 8), (1, 3, 5, 7, 4)])
def test_attention_flops_are_torchs(shape: tuple[int, ...]) -> None:
    batch, heads, queries, keys, width = shape
    query, key = (batch, heads, queries, width), (batch, heads, keys, width)
    args = [torch.empty(size, device="meta") for size in (query, key, key)]
    forward = sdpa_flop_count(query, key, key)
    assert attention_flops(args, backward=False) == (forward, forward)
    asked, done = attention_flops([torch.empty(query, device="meta"), *args], backward=True)
    assert done == sdpa_backward_flop_count(query, query, key, key)
    assert asked == 2 * forward  # the scores that are computed again are the kernel's business


def saved_bytes(model: Model, batch: Batch) -> int:
    """Storages that autograd packs in a real forward pass, but for parameters and inputs."""
    known = {parameter.untyped_storage().data_ptr() for parameter in [*model.parameters(), *model.buffers()]}
    batch.apply(lambda tensor: (known.add(tensor.untyped_storage().data_ptr()), tensor)[1])
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = model.losses(batch)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    del terms
    return sum(size for pointer, size in storages.items() if pointer not in known)


@pytest.mark.parametrize("name", list(CASES))
def test_what_autograd_saves_is_what_it_saves_in_a_real_pass(name: str) -> None:
    model, batch = built(name)
    assert trace_step(model, batch).saved == pytest.approx(saved_bytes(model, batch), rel=0.03)


def test_checkpointing_keeps_less_and_computes_more() -> None:
    model, batch = built("transformer")
    none, selective, full = (trace_step(model, batch, checkpointing=kind) for kind in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL))
    assert none.saved > selective.saved > full.saved
    assert none.flops(Phase.BACKWARD) < selective.flops(Phase.BACKWARD) < full.flops(Phase.BACKWARD)
    assert none.flops(Phase.FORWARD) == selective.flops(Phase.FORWARD) == full.flops(Phase.FORWARD)
    half = trace_step(model, batch, checkpointing=Recompute.FULL, every=2)
    assert full.saved < half.saved < none.saved


def test_blocks_without_names_cannot_be_checkpointed() -> None:
    with pytest.raises(ValueError, match="names no repeated blocks"):
        trace_step(*built("mlp"), checkpointing=Recompute.FULL)


def test_choosing_by_a_mask_counts_as_choosing_everything() -> None:
    class Chooser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))

        def losses(self, batch: Batch) -> dict[str, Any]:
            from zoo.structs import LossTerm

            values = batch.inputs["text"].values
            assert isinstance(values, Tensor)
            return {"all": LossTerm((values.float()[..., None] * self.weight)[values > 0].sum())}

    batch = fake_batch(TEXT, 4, lengths=[24] * 4)
    masked = trace_step(Chooser(), batch)
    chosen = [operation for operation in masked.operations if operation.name == "index"]
    assert [sum(operation.writes.values()) for operation in chosen] == [4 * 24 * 8 * 4]


def test_other_devices_take_other_attention_kernels() -> None:
    model, batch = built("transformer")
    assert not [operation for operation in trace_step(model, batch, device="cpu").operations if operation.kind is Kind.ATTENTION]  # explicit: 24 positions
    there = trace_step(model, batch, device="cuda", numbers=Numbers.AUTOCAST)
    assert len([operation for operation in there.operations if operation.kind is Kind.ATTENTION]) == 6


CONTINUED = [(Recompute.NONE, 1, Numbers.FP32), (Recompute.SELECTIVE, 1, Numbers.BF16), (Recompute.FULL, 2, Numbers.FP32)]


@pytest.mark.parametrize(("checkpointing", "every", "numbers"), CONTINUED)
def test_a_stack_is_continued_as_if_it_were_traced_whole(checkpointing: Recompute, every: int, numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    def shaped() -> workloads.Workload:
        return of_shape(TransformerShape(layers=9, dim=32, heads=4, kv_heads=2, hidden=64, vocab=50, sequence=16))

    def composed() -> workloads.Workload:
        encoder = {"name": "transformer", "dim": 32, "depth": 9, "heads": 2}
        return of_model("text", assemble(encoder, {"name": "none"}, {"name": "classification"}, TEXT), fake_batch(TEXT, 2, lengths=[24] * 2), adamw, 24)

    makers: list[Callable[[], workloads.Workload]] = [shaped, composed]
    for make in makers:
        continued = make().step(3, numbers, checkpointing, every)
        with monkeypatch.context() as patch:
            patch.setattr(workloads, "SHALLOW", 100)
            assert continued == make().step(3, numbers, checkpointing, every)
