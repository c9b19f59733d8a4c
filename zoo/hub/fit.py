"""Parameters of another size, fitted: ``init_fit``. Nothing is fitted that was not asked for by prefix, and the report says how each was.

Letters: N positions, D width, V entries of a vocabulary, K classes, C channels, P side of a patch, H W patches of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.data.base import InputCodec, TargetCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.layers.fits import Fit
from zoo.model import Model
from zoo.prefixes import under

ROWS = frozenset({Fit.VOCABULARY, Fit.LABELS})
"""What rows follow by name."""


@dataclass(frozen=True)
class Fitted:
    """A parameter of the model's size.

    Args:
        value: of it.
        how: for the report.
    """

    value: Tensor
    how: str


@dataclass(frozen=True)
class Meaning:
    """What the rows of one side stand for.

    Args:
        vocabulary: entry -> row of the tokenizer, if there is one.
        labels: of the classifier, if there is one.
        size: height and width of the images, if there are any.
        written: entry -> row of the tokenizer of what is written, where the model writes a text.
    """

    vocabulary: Mapping[str, int] | None = None
    labels: Sequence[str] | None = None
    size: tuple[int, int] | None = None
    written: Mapping[str, int] | None = None

    def entries(self, name: str) -> Mapping[str, int] | None:
        """What the rows of a parameter stand for: a decoder and a head that write have the vocabulary of what is written."""
        return self.written if self.written is not None and not name.startswith("encoder.") else self.vocabulary


def fits_of(model: nn.Module) -> dict[str, tuple[nn.Module, Fit]]:
    """Parameters by their full name, with the module that declared how they are fitted."""
    declared = {
        f"{path}.{name}" if path else name: (module, fit) for path, module in model.named_modules() for name, fit in getattr(module, "fits", {}).items()
    }
    there = model.state_dict()
    return {name: entry for name, entry in declared.items() if name in there}  # options leave some out: rotary positions have no table


def rows_declared(model: nn.Module) -> tuple[set[str], set[str]]:
    """Tensors whose rows stand for entries or classes, and the others of the modules that declare them: a width may be as large as a vocabulary."""
    declared = {name for name, (_, fit) in fits_of(model).items() if fit in ROWS}
    paths = [path for path, module in model.named_modules() if not ROWS.isdisjoint(getattr(module, "fits", {}).values())]
    return declared, {name for name in model.state_dict() if name not in declared and any(under(name, path) for path in paths)}


def fitted(name: str, value: Tensor, own: Tensor, fit: Fit, module: Any, before: Meaning, now: Meaning) -> Fitted:
    """Another model's parameter in this one's size.

    Args:
        name: of the parameter.
        value: the other's.
        own: this model's, as it was initialised.
        fit: what the axis stands for.
        module: that declared it.
        before: what the other's rows stand for.
        now: what this one's do.

    Raises:
        CheckpointError: where the two differ in more than that axis, or nobody knows what its rows stand for.
    """
    other = tuple(value.shape[1:]) != tuple(own.shape[1:]) if fit is not Fit.PATCHES else value.shape[0] != own.shape[0]
    if other or value.dim() != own.dim():
        raise CheckpointError(f"init_fit: {name}: {list(value.shape)} cannot become {list(own.shape)}: only its {fit} may differ")
    match fit:
        case Fit.GRID:
            return _grid(name, value, own, module, before, now)
        case Fit.PATCHES:
            return _patches(name, value, own, module)
        case Fit.POSITIONS:
            both = min(len(value), len(own))
            rest = f", the other {len(own) - both} as initialised" if len(own) > both else ""
            return Fitted(torch.cat((value[:both], own[both:])), f"the first {both} positions of {len(value)}{rest}")
        case Fit.VOCABULARY:
            return _rows(name, value, own, before.entries(name), now.entries(name), "entries", fill=True)
        case Fit.LABELS:
            old, new = (None if meaning.labels is None else {label: row for row, label in enumerate(meaning.labels)} for meaning in (before, now))
            return _rows(name, value, own, old, new, "classes", fill=False)


def _rows(name: str, value: Tensor, own: Tensor, old: Mapping[str, int] | None, new: Mapping[str, int] | None, what: str, *, fill: bool) -> Fitted:
    """Rows follow what they stand for. New entries of a vocabulary begin with the mean of the old, in whose midst they are less of a surprise to the
    layers after them (Hewitt, 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html); new classes as initialised."""
    if old is None or new is None:
        why = "there is no processor beside the weights that names them" if old is None else "this data's processor names none"
        raise CheckpointError(
            f"init_fit: {name}: nobody knows which {what} its rows stand for: {why}\n  way out: leave them as initialised: init_skip=[{name}]"
        )
    shared = [(new[entry], row) for entry, row in old.items() if entry in new and row < len(value) and new[entry] < len(own)]
    fresh = value[: len(old)].mean(dim=0, keepdim=True).expand_as(own).clone() if fill else own.clone()
    if shared:
        places, rows = (torch.tensor(column, device=value.device) for column in zip(*shared, strict=True))
        fresh[places] = value[rows]
    rest = len(own) - len(shared)
    begin = "the mean of the old" if fill else "as initialised"
    return Fitted(fresh, f"{len(shared)} {what} of {len(old)} by name" + (f", {rest} new ones {begin}" if rest else ""))


def _grid(name: str, value: Tensor, own: Tensor, module: Any, before: Meaning, now: Meaning) -> Fitted:
    """Positions of patches, interpolated over the image (Dosovitskiy et al., 2021, section 3.2)."""
    prefix = 0 if module.cls is None else 1
    (height, width), patch = now.size or (0, 0), module.patches.patch_size
    target = height // patch, width // patch
    if target[0] * target[1] != len(own) - prefix:
        raise CheckpointError(f"init_fit: {name}: nobody knows how {len(own) - prefix} positions stand in the image")
    source = _grid_of(len(value) - prefix, before.size)
    if source is None:
        raise CheckpointError(f"init_fit: {name}: nobody knows how the {len(value) - prefix} positions of the weights stand in their image")
    table = rearrange(value[prefix:], "(h w) d -> 1 d h w", h=source[0])
    table = F.interpolate(table.float(), size=target, mode="bicubic", antialias=True, align_corners=False).to(value.dtype)
    return Fitted(
        torch.cat((value[:prefix], rearrange(table, "1 d h w -> (h w) d"))), f"{source[0]} x {source[1]} positions interpolated to {target[0]} x {target[1]}"
    )


def _grid_of(count: int, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of so many square patches in an image of this size; a square where nothing is known of it."""
    if size is None:
        side = round(count**0.5)
        return (side, side) if side * side == count else None
    for rows in range(1, count + 1):
        if count % rows == 0 and rows * size[1] == (count // rows) * size[0]:
            return rows, count // rows
    return None


def _patches(name: str, value: Tensor, own: Tensor, module: Any) -> Fitted:
    """Weights of larger or smaller patches that give what the old ones gave on the resized patch (Beyer et al., 2023, https://arxiv.org/abs/2212.08013)."""
    new = module.patches.patch_size
    channels = own.shape[1] // new**2
    pairs = [(c, side) for c in (channels, 1, 3) if value.shape[1] % c == 0 and (side := round((value.shape[1] / c) ** 0.5)) ** 2 * c == value.shape[1]]
    if not pairs:
        raise CheckpointError(f"init_fit: {name}: {value.shape[1]} weights are no square patch")
    given, old = pairs[0]
    kernels = rearrange(value.float(), "d (c p q) -> (d c) p q", c=given, p=old)
    if old != new:
        kernels = (kernels.flatten(1) @ torch.linalg.pinv(resize_matrix(old, new)).T.to(kernels)).unflatten(1, (new, new))
    weights = rearrange(kernels, "(d c) p q -> d c p q", c=given)
    if given != channels:
        if channels == 1:
            weights = weights.sum(dim=1, keepdim=True)  # a grey pixel is three equal ones
        elif given == 1:
            weights = weights.expand(-1, channels, -1, -1) / channels
        else:
            raise CheckpointError(f"init_fit: {name}: patches of {given} channels cannot become patches of {channels}")
    told = [f"patches of {old} x {old} resampled to {new} x {new}"] if old != new else []
    told += [f"{given} channels to {channels}"] if given != channels else []
    return Fitted(weights.flatten(1).to(value.dtype), ", ".join(told) or "as they were")


def resize_matrix(old: int, new: int) -> Tensor:
    """(P P) x (Q Q): resizing a patch of P = ``old`` pixels a side to Q = ``new``, as a linear map of rows. A weight w of it gives w pinv(this)' after it."""
    basis = torch.eye(old * old).view(old * old, 1, old, old)
    resized = F.interpolate(basis, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return resized.flatten(1)


def meaning(processor: Processor | None, model: Model) -> Meaning:
    """What rows of the model's parameters stand for in data of this processor."""
    if processor is None:
        return Meaning()
    head: Any = model.head
    vocabulary = labels = size = written = None
    for name, codec in processor.inputs.items():
        given: Any = codec
        if name in model.inputs or len(processor.inputs) == 1:
            if codec.kind in ("text", "words") and hasattr(given.tokenizer, "library"):
                vocabulary = given.tokenizer.library.get_vocab()
            elif codec.kind == "image":
                size = given.size
        if codec.kind == "written" and hasattr(given.tokenizer, "library"):
            written = given.tokenizer.library.get_vocab()
    target: Any = counterpart(processor.targets[head.target.name], head.target.name, processor.targets) if head.target.name in processor.targets else None
    if target is None and len(processor.targets) == 1:
        target = next(iter(processor.targets.values()))
    if target is not None and target.kind in ("class", "taught", "tags"):
        labels = target.spec.labels
    return Meaning(vocabulary=vocabulary, labels=labels, size=size, written=written)


def counterpart(codec: InputCodec | TargetCodec, name: str, others: Mapping[str, Any]) -> Any:
    """The codec of the source that stands where ``codec`` does: of its kind, by its name, or the only one."""
    fitting = {other: known for other, known in others.items() if known.kind == codec.kind}
    return fitting.get(name) or (next(iter(fitting.values())) if len(fitting) == 1 else None)
