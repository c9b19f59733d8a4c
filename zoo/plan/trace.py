"""A training step on fake tensors: every operation with its FLOPs and bytes, and every allocation with its end.

Nothing is computed and no memory is taken. The operations are those that autograd, torch's checkpointing and the optimizer really run,
so that what is saved, what is computed again and where the peak lies are measured. What a kernel allocates and frees within itself is not seen.
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.layers import attention
from zoo.parallel.recompute import recompute_blocks, repeated
from zoo.plan.operations import BY_MASK, Operation, Phase, describe, touched, widest
from zoo.random import SampleRandom, sample_randomness
from zoo.settings import Recompute
from zoo.structs import Batch, LossTerm


class Numbers(StrEnum):
    """What the step computes in."""

    FP32 = "fp32"
    AUTOCAST = "autocast"
    """fp32 parameters, bf16 where it pays (``trainer.precision=bf16`` on whole parameters)."""
    BF16 = "bf16"
    """Parameters gathered in bf16 and inputs cast, which is what FSDP2's mixed precision computes with; autocast where types still meet."""


@dataclass
class Trace:
    """A step.

    Args:
        rows: samples in it.
        operations: in order.
        changes: (storage, bytes, operations so far): allocations, and frees as negative bytes.
        parameters: storages of parameters and buffers, with their bytes.
        gradients: storages that hold gradients at the end of the backward pass.
        states: storages of the optimizer.
        inputs: bytes of the batch.
        saved: bytes beyond parameters and inputs that live when the forward pass ends.
        borders: operations before the optimizer.
        block_input: bytes of what goes into one block of the stack; 0 without blocks.
    """

    rows: int
    operations: list[Operation] = field(default_factory=list)
    changes: list[tuple[int, int, int]] = field(default_factory=list)
    parameters: dict[int, int] = field(default_factory=dict)
    gradients: set[int] = field(default_factory=set)
    states: set[int] = field(default_factory=set)
    inputs: int = 0
    saved: int = 0
    border: int = 0
    block_input: int = 0

    def flops(self, *phases: Phase) -> int:
        return sum(operation.flops for operation in self.operations if not phases or operation.phase in phases)

    def peak(self) -> int:
        """Most bytes at once: parameters, inputs and everything that the step allocates."""
        return self.inputs + sum(self.parameters.values()) + self._peak(lambda _: True)

    def activation_peak(self) -> int:
        """Most bytes at once of what is no parameter, gradient, optimizer state or input, in the forward and backward passes."""
        own = self.gradients | self.states
        return self._peak(lambda storage: storage not in own, self.border)

    def step_peak(self) -> int:
        """The same with gradients."""
        return self._peak(lambda storage: storage not in self.states, self.border)

    def extra(self) -> int:
        """Most bytes at once of what is neither gradient nor state."""
        own = self.gradients | self.states
        return self._peak(lambda storage: storage not in own)

    def state_bytes(self) -> int:
        """What the optimizer keeps from step to step."""
        return sum(size for storage, size, _ in self.changes if storage in self.states and size > 0)

    def _peak(self, counts: Callable[[int], bool], border: int | None = None) -> int:
        now = most = 0
        for storage, size, place in self.changes:
            if border is not None and place > border:
                break
            if counts(storage):
                now += size
                most = max(most, now)
        return most


class Recorder(TorchDispatchMode):
    """Fills a trace with what is dispatched within it."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace, self.phase = trace, Phase.FORWARD
        self.numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.counter = 0

    def number(self, tensor: Tensor) -> int:
        """The storage's number; a new one is an allocation."""
        storage = tensor.untyped_storage()
        known = self.numbers.get(storage)
        if known is not None:
            return known
        self.counter += 1
        number, size, trace = self.counter, storage.nbytes(), self.trace
        self.numbers[storage] = number
        trace.changes.append((number, size, len(trace.operations)))
        weakref.finalize(storage, lambda: trace.changes.append((number, -size, len(trace.operations)))).atexit = False
        return number

    def keep(self, tensors: Sequence[Tensor]) -> dict[int, int]:
        """Storages that were there before, which are no allocations of the step."""
        found = {self.number(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.trace.changes.clear()
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if func._overloadpacket.__name__ in BY_MASK:
            args = widest(args)
        result = torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64) if func is torch.ops.aten.nonzero.default else func(*args, **kwargs)
        given = [leaf for leaf in pytree.arg_tree_leaves(*args, **kwargs) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        before = {self.number(tensor): tensor for tensor in given}
        after = {self.number(tensor): tensor for tensor in made}
        mutable = func._schema.is_mutable
        if not mutable and after.keys() <= before.keys():
            return result  # a view
        self.trace.operations.append(describe(func, args, kwargs, result, self.phase, before, after, mutable))
        return result


# --- the step ---------------------------------------------------------------------------------------------------------------------


def trace_step(
    model: nn.Module,
    batch: Batch,
    *,
    rows: int | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    numbers: Numbers = Numbers.FP32,
    checkpointing: Recompute = Recompute.NONE,
    every: int = 1,
    device: str = "cpu",
    clip: bool = True,
    again: bool = False,
) -> Trace:
    """Forward, backward, clipping and update of one batch, as the trainer does them in its second step.

    Where the loss compares the rows of the whole batch, it is not in here (``trace_comparison``): the backward pass begins at the predictions.

    Args:
        model: has ``losses(batch)``; on any device, the meta device included; it is not touched.
        batch: of which shapes and types alone are used.
        rows: samples of the batch; its own count where none is given.
        optimizer: makes the optimizer; without one the step ends after the backward pass.
        numbers: what it computes in.
        checkpointing: of the repeated blocks.
        every: which of the blocks, as for ``recompute_blocks``.
        device: type of the device that is planned for; decides which attention kernel zoo picks.
        clip: whether the gradient's norm is computed.
        again: whether the batch has run forward before without keeping anything, as micro-batches do where the loss compares the rows of all of them.
    """
    rows = rows or batch.size
    trace = Trace(rows)
    recorder = Recorder(trace)
    with FakeTensorMode(allow_non_fake_inputs=True), kernels_of(device):
        twin = fake_twin(model, torch.bfloat16 if numbers is Numbers.BF16 else None)
        inputs = batch.apply(lambda tensor: torch.empty((rows, *tensor.shape[1:]), dtype=narrowed(tensor.dtype, numbers)))
        recompute_blocks(twin, checkpointing, every, keep_generator=False)
        parameters = list(twin.parameters())
        update = optimizer(twin) if optimizer else None
        kept: list[Tensor] = [*parameters, *twin.buffers()]
        if update is not None:
            kept += first_update(update)
        handles = [block.register_forward_pre_hook(_note_input(trace)) for block in repeated(twin)[:1]]
        trace.inputs = sum(touched(leaf) for leaf in batch_tensors(inputs))
        random = SampleRandom(0, 1, inputs.ids)
        autocast = autocast_of(numbers)
        whole = compares(twin)
        given = [torch.empty(value.shape, dtype=value.dtype) for value in predictions_of(twin, inputs, random, autocast).values()] if whole else []
        with recorder:
            known = recorder.keep([*kept, *given, *batch_tensors(inputs)])
            amounts = {recorder.numbers[tensor.untyped_storage()] for tensor in (*parameters, *twin.buffers())}
            trace.parameters = {number: known[number] for number in amounts}
            states = {recorder.numbers[tensor.untyped_storage()]: touched(tensor) for tensor in kept[len(parameters) + len(list(twin.buffers())) :]}
            trace.states = set(states)
            trace.changes = [(number, size, 0) for number, size in states.items()]
            if again:
                predictions_of(twin, inputs, random, autocast)
            with sample_randomness(random):
                with autocast:
                    ends = list(twin(inputs.inputs).values()) if whole else sums_of(twin.losses(inputs))  # type: ignore[operator]
                trace.saved = sum(size for number, size, _ in trace.changes if number not in trace.states)
                recorder.phase = Phase.BACKWARD
                pairs = zip(ends, given if whole else [torch.empty_like(value) for value in ends], strict=True)
                torch.autograd.backward(*zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True))
                del pairs
            del ends
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            trace.gradients = {recorder.number(gradient) for gradient in gradients}
            trace.border = len(trace.operations)
            recorder.phase = Phase.OPTIMIZER
            if clip and gradients and update is not None:
                clip_gradients(gradients)
            if update is not None:
                update.step()
        for handle in handles:
            handle.remove()
    return trace


@dataclass
class Compared:
    """The loss over the rows of a whole batch, and its gradient with respect to their predictions.

    Args:
        trace: of both, as a step whose inputs are the rows.
        tensors: predictions and targets, each of which ranks gather by itself.
        gradients: bytes of the gradients, which are kept until the step ends.
    """

    trace: Trace
    tensors: int
    gradients: int


def trace_comparison(model: nn.Module, batch: Batch, *, rows: int, numbers: Numbers = Numbers.FP32, device: str = "cpu") -> Compared:
    """What ``zoo.training.whole_batch`` does between the two passes through the model, on a device that has gathered all rows.

    Args:
        model: whose head says ``whole_batch``; it is not touched.
        batch: of which shapes and types alone are used.
        rows: of the whole batch.
        numbers: what the step computes in.
        device: type of the device that is planned for.
    """
    trace = Trace(rows)
    recorder = Recorder(trace)
    with FakeTensorMode(allow_non_fake_inputs=True), kernels_of(device):
        twin = fake_twin(model, torch.bfloat16 if numbers is Numbers.BF16 else None)
        some = batch.apply(lambda tensor: torch.empty(tensor.shape, dtype=narrowed(tensor.dtype, numbers)))
        autocast = autocast_of(numbers)

        def whole(tensor: Tensor) -> Tensor:
            return torch.empty((rows, *tensor.shape[1:]), dtype=tensor.dtype)

        prediction = {name: whole(value) for name, value in predictions_of(twin, some, SampleRandom(0, 1, some.ids), autocast).items()}
        targets, valid = {name: whole(value) for name, value in some.targets.items()}, whole(some.valid)
        gathered = [*prediction.values(), *targets.values(), valid]
        trace.inputs = sum(touched(tensor) for tensor in gathered)
        with recorder:
            recorder.keep(gathered)
            leaves = [value.requires_grad_() for value in prediction.values() if value.is_floating_point()]
            with autocast:
                sums = sums_of(twin.head.loss(prediction, targets, valid))  # type: ignore[union-attr, operator]
            trace.saved = sum(size for _, size, _ in trace.changes)
            recorder.phase = Phase.BACKWARD
            found = torch.autograd.grad(sums, leaves, [torch.empty_like(value) for value in sums], materialize_grads=True)
            trace.border = len(trace.operations)
    return Compared(trace, len(gathered), sum(touched(gradient) for gradient in found))


def compares(model: nn.Module) -> bool:
    """Whether the loss compares the rows of the whole batch."""
    return bool(getattr(getattr(model, "head", None), "whole_batch", False))


def predictions_of(twin: nn.Module, batch: Batch, random: SampleRandom, autocast: AbstractContextManager[Any]) -> dict[str, Tensor]:
    """Forward without keeping anything."""
    with torch.no_grad(), sample_randomness(random), autocast:
        return twin(batch.inputs)  # type: ignore[no-any-return]


def sums_of(terms: Mapping[str, LossTerm]) -> list[Tensor]:
    return [term.sum for term in terms.values()]


def autocast_of(numbers: Numbers) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if numbers is not Numbers.FP32 else nullcontext()


def trace_update(model: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> Trace:
    """Clipping and the optimizer's second update alone, over all parameters in their own type."""
    trace = Trace(0)
    recorder = Recorder(trace)
    with FakeTensorMode(allow_non_fake_inputs=True):
        twin = fake_twin(model, None)
        update = optimizer(twin)
        states = first_update(update)
        for group in update.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        gradients = [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
        with recorder:
            recorder.keep([*twin.parameters(), *gradients])
            trace.gradients = {recorder.number(gradient) for gradient in gradients}
            amounts = recorder.keep(states)
            trace.states = set(amounts)
            trace.changes = [(number, size, 0) for number, size in amounts.items()]
            recorder.phase = Phase.OPTIMIZER
            clip_gradients(gradients)
            update.step()
    return trace


def clip_gradients(gradients: list[Tensor]) -> None:
    """The trainer's operations, without its question whether the norm is too large."""
    norms = torch._foreach_norm(gradients)
    torch._foreach_mul_(gradients, torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])))


def first_update(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The optimizer's states after a first update."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return [value for state in optimizer.state.values() for value in pytree.tree_leaves(state) if isinstance(value, Tensor)]


def batch_tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    batch.apply(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def narrowed(dtype: torch.dtype, numbers: Numbers) -> torch.dtype:
    """FSDP2 casts inputs as it does parameters."""
    return torch.bfloat16 if numbers is Numbers.BF16 and dtype.is_floating_point else dtype


def fake_twin(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy whose parameters and buffers are fake; to be called within the mode."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        kind = dtype if dtype and parameter.is_floating_point() else parameter.dtype
        memo[id(parameter)] = nn.Parameter(torch.empty(parameter.shape, dtype=kind, device="cpu"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return copy.deepcopy(model, memo).train()


def _note_input(trace: Trace) -> Callable[[nn.Module, Any], None]:
    def hook(_: nn.Module, args: Any) -> None:
        trace.block_input = max([trace.block_input, *(touched(leaf) for leaf in args[:1] if isinstance(leaf, Tensor))])

    return hook


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """zoo picks its attention kernel by the device; fake tensors stand on the CPU, the plan is for ``device``."""
    picked = attention.pick_kernel
    if device != "cpu":
        setattr(attention, "pick_kernel", lambda _, dtype, length: picked(device, dtype, length))  # noqa: B010  (a type checker would refuse the assignment)
    try:
        yield
    finally:
        setattr(attention, "pick_kernel", picked)  # noqa: B010
