"""``init=``: start from other weights. Strict: every tensor is loaded, or was asked for by prefix, and a report says which."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.agreement import FOLDER, OF_THE_INPUTS, Difference, codec_differences, ways_to_keep
from zoo.data.processor import Processor
from zoo.errors import CheckpointError, ConfigError
from zoo.hub.fit import counterpart, fits_of, fitted, meaning, rows_declared
from zoo.hub.resolve import resolve
from zoo.hub.weights import read_header, renamed
from zoo.model import Model
from zoo.prefixes import check_prefix, longest, under
from zoo.training.checkpoint import open_checkpoint
from zoo.training.init_architecture import Differences, architecture_of, differences, overrides, told
from zoo.training.init_ways import Misfit, Sides, can_be_fitted, ways_to_init
from zoo.training.marker import MARKER
from zoo.training.published import find_checkpoint, published_weights
from zoo.training.store import store_of
from zoo.training.tensors import read_tensors


@dataclass(frozen=True)
class InitReport:
    """What became of every tensor.

    Args:
        source: file that was read.
        loaded: names that were taken over.
        skipped: names of the model that ``init_skip`` left as initialised.
        unused: names of the file under ``init_skip``.
        compared: whether the vocabularies of the source's data are on record, and those of this data are the same.
        renamed: names of the model by those that the source has for them, where they differ.
        fitted: how parameters of another size became the model's.
        differs: options that were others in the weights' model, with both values: the same tensors compute something else.
    """

    source: str
    loaded: list[str]
    skipped: list[str]
    unused: list[str]
    compared: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    fitted: dict[str, str] = field(default_factory=dict)
    differs: Differences = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"init: {len(self.loaded)} tensors from {self.source}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} left as initialised ({_some(self.skipped)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file not used ({_some(self.unused)})")
        if self.renamed:
            parts.append(f"{len(self.renamed)} by other names")
        parts += [f"{name}: {how}" for name, how in self.fitted.items()]
        if not self.compared:
            parts.append("no processor beside them, so that vocabularies could not be compared")
        return ", ".join(parts) + (f"\n{told(self.differs)}" if self.differs else "")

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf-8")


def init_weights(
    model: Model,
    uri: str,
    skip: list[str],
    data: Processor | None = None,
    *,
    rename: Mapping[str, str] | None = None,
    fit: Sequence[str] = (),
    nodes: Mapping[str, Any] | None = None,
) -> InitReport:
    """Fill a model from a bundle, a run, a checkpoint, or what a name or address stands for.

    Args:
        model: on any device.
        uri: path or name, as for ``zoo.load``.
        skip: prefixes of names, at dots: ``head`` covers ``head.linear.weight``.
        data: codecs of the data that the model will be trained on.
        rename: prefixes of the source's names, and what the model calls them; with any, the source's other tensors are left out.
        fit: prefixes of names whose sizes or entries may differ (``zoo.hub.fit``).
        nodes: the model's parts as its config has them, to be compared with those of the weights' model.

    Raises:
        CheckpointError: naming every tensor that is missing, not known or of another shape, outside the skipped prefixes; or whose rows
            stand for other entries than in the source.
        ConfigError: for a prefix that no tensor has.
    """
    path = resolve(uri, weights=True)
    file, found = published(path)
    state = model.state_dict()
    found, names, left = renamed_tensors(found, rename or {}, file)

    def skips(name: str) -> bool:
        return longest(name, skip) is not None

    for prefix in skip:
        if not any(under(name, prefix) for name in [*state, *found]):
            raise ConfigError(
                "init_skip",
                f"no parameter begins with {prefix!r}",
                f"one of {', '.join(dict.fromkeys(name.split('.')[0] for name in state))}, or a longer prefix",
            )
    able = fits_of(model)
    changing = [name for name in state if name in found and name in able and longest(name, fit) is not None and not skips(name)]
    wanted, given = [name for name in state if not skips(name)], [name for name in found if not skips(name)]
    if rename:  # a part of the model was asked for: the rest is as initialised
        wanted = [name for name in wanted if longest(name, rename.values()) is not None]
    misfits = misfits_of(found, state, wanted, given, changing)
    folder = processor_folder(path)
    source = Processor.load(folder) if folder is not None else None
    before, now = meaning(source, model), meaning(data, model)
    sides = Sides(found, state, skip, fit, before, now)
    dropped = [prefix for prefix in fit if any(under(name, prefix) for name in state) and all(skips(name) for name in state if under(name, prefix))]
    if dropped:
        raise ConfigError(
            "init_fit", f"{dropped[0]!r} is under init_skip=[{','.join(skip)}], which leaves it as initialised: nothing would be fitted", "one of both"
        )
    differs = differences(architecture_of(folder), nodes or {}, wanted, rename or {})
    if misfits:
        raise CheckpointError(
            f"init: {len(misfits)} tensors of {file} do not fit the model{of_another(differs, found, state)}:\n  "
            + "\n  ".join(misfit.told for misfit in misfits[:40])
            + (f"\n  and {len(misfits) - 40} more" if len(misfits) > 40 else "")
            + numbered([*as_the_weights(differs), *ways_to_init(model, misfits, sides)])
        )
    if folder is not None and source is not None and data is not None:
        refuse_other_vocabularies(model, source, data, folder, [name for name in wanted if name not in changing], sides)
    how: dict[str, str] = {}
    with torch.no_grad():
        for name in wanted:
            value = found[name]
            if name in changing:
                module, kind = able[name]
                result = fitted(name, value, state[name], kind, module, before, now)
                value, how[name] = result.value, result.how
            state[name].copy_(value)
    unused = [*(name for name in found if skips(name)), *left]
    skipped = [name for name in state if name not in wanted]
    return InitReport(file, wanted, skipped, unused, source is not None and data is not None, renamed=names, fitted=how, differs=differs)


def misfits_of(found: Mapping[str, Tensor], state: Mapping[str, Tensor], wanted: list[str], given: list[str], changing: list[str]) -> list[Misfit]:
    """What the model wants and the file has not, what the file gives and the model has not, and what both have in other shapes."""
    spare = set(given) - set(wanted)

    def alike(name: str) -> set[str]:
        return {other for other in spare if tuple(found[other].shape) == tuple(state[name].shape)}

    misfits = [Misfit(name, f"missing: {name}" + renamed(name, alike(name))) for name in wanted if name not in found]
    misfits += [Misfit(name, f"unexpected: {name}") for name in given if name not in state]
    theirs = set(given)
    return misfits + [
        Misfit(name, f"other shape: {name} is {list(found[name].shape)} in the file, {list(state[name].shape)} in the model")
        for name in [name for name in state if name in theirs]
        if found[name].shape != tuple(state[name].shape) and name not in changing
    ]


def renamed_tensors(found: dict[str, Tensor], rename: Mapping[str, str], file: str) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors by the model's names, which of those differ from the source's, and what no prefix covers.

    Raises:
        ConfigError: for a prefix that no tensor has.
    """
    if not rename:
        return found, {}, []
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    left: list[str] = []
    for theirs in rename:
        check_prefix(f"init_rename.{theirs}", theirs, found)
    for name, tensor in found.items():
        prefix = longest(name, rename)
        if prefix is None:
            left.append(name)
            continue
        ours = rename[prefix] + name[len(prefix) :]
        if ours in tensors:
            raise ConfigError("init_rename", f"{name} and {names.get(ours, ours)} of {file} would both become {ours}", "prefixes that do not meet")
        tensors[ours] = tensor
        if ours != name:
            names[ours] = name
    return tensors, names, left


def published(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The weights that a bundle, a run's directory, a checkpoint or a file publishes, and where they were read: averaged ones where there
    are any, the best where it is known.

    Raises:
        CheckpointError: where there are none.
    """
    files = [path] if path.is_file() else [folder / "model.safetensors" for folder in (path, path / "bundle") if not (folder / MARKER).is_file()]
    for file in files:
        if file.is_file():
            read_header(file)  # says what a pickle under this name is
            return str(file), read_tensors(file)
    if not (path / MARKER).is_file() and not (path / "checkpoints").is_dir() and store_of(path) is None:
        raise CheckpointError(f"{path}: holds no weights: neither a bundle nor a complete checkpoint")
    checkpoint = open_checkpoint(path) if (path / MARKER).is_file() else find_checkpoint(path)
    averaged = " with the averages of ema.safetensors" if checkpoint.has("ema") else ""
    return f"{checkpoint.place}/model.safetensors{averaged}", published_weights(checkpoint)


# --- what rows stand for ------------------------------------------------------------------------------------------------------------


def processor_folder(path: Path) -> Path | None:
    """The processor of a bundle, a run's directory, one of its checkpoints or a file of theirs."""
    folder = path.resolve().parent if path.is_file() else path.resolve()
    candidates = [folder / FOLDER, folder / "bundle" / FOLDER]
    if (folder / MARKER).is_file():
        candidates = [folder.parent.parent / FOLDER, folder.parent.parent / "bundle" / FOLDER]
    return next((found for found in candidates if (found / "processor.json").is_file()), None)


def refuse_other_vocabularies(model: Model, source: Processor, data: Processor, folder: Path, wanted: list[str], sides: Sides) -> None:
    """Shapes tell the sizes of vocabularies only.

    Args:
        model: built for ``data``.
        source: codecs that the weights were trained with.
        data: codecs of the data that was opened.
        folder: of the source's processor.
        wanted: names of the tensors that would be taken over as they are.
        sides: the weights and the model, with what was asked for.

    Raises:
        CheckpointError: where tensors would be taken over whose rows stand for something else.
    """
    head: Any = model.head
    given, answer = {name: data.inputs[name] for name in model.inputs}, data.targets[head.target.name]
    told: dict[str, list[Difference]] = {"encoder": [], "decoder": [], "head": []}
    for name in model.takes:
        if (before := counterpart(data.inputs[name], name, source.inputs)) is not None:
            found = [entry for entry in codec_differences(f"input {name}", before, data.inputs[name]) if entry.vocabulary]
            told["decoder" if name == model.written else "encoder"] += found
    if answer.kind in OF_THE_INPUTS:
        told["head"] = told["encoder"]
    elif model.written is not None:
        told["head"] = told["decoder"]
    elif (known := counterpart(answer, head.target.name, source.targets)) is not None:
        told["head"] = [entry for entry in codec_differences(f"target {head.target.name}", known, answer) if entry.vocabulary]
    taken = {prefix: rows_of(model, prefix, found, data, wanted) for prefix, found in told.items() if found}
    prefixes = [prefix for prefix, names in taken.items() if names]
    if not prefixes:
        return
    lines = dict.fromkeys(f"{entry}\n    which {_some(taken[prefix])} would take over" for prefix in prefixes for entry in told[prefix])
    skip = [*sides.skip, *prefixes]
    ways = [f"leave what depends on them as initialised: init_skip=[{','.join(skip)}]"] if sides.taken(skip) else []
    names = list(dict.fromkeys(name for names in taken.values() for name in names))
    if set(names) <= set(can_be_fitted(model, names, sides)):
        ways[:0] = [f"let rows follow what they stand for: init_fit=[{','.join(dict.fromkeys([*sides.fit, *names]))}]"]
    if "encoder" in prefixes or answer.kind in OF_THE_INPUTS:
        ways[:0] = ways_to_keep(given, folder)
    raise CheckpointError(
        "init: the sizes agree, but not what they stand for (in the weights' data -> in this data):\n  "
        + "\n  ".join(lines)
        + numbered(ways or ["init=null to start from random weights"])
    )


def of_another(differs: Differences, found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why hardly anything may fit: other components, or names that are not zoo's."""
    parts = {option.removesuffix(".name"): values for option, values in differs.items() if option.endswith(".name")}
    others = [f"{part} is {now}, in the weights' model {before}" for part, (before, now) in parts.items()]
    if others:
        return f" ({', '.join(others)})"
    known = {name.partition(".")[0] for name in state}
    strange = sorted(name for name in found if name.partition(".")[0] not in known)
    if len(strange) < len(found):
        return ""
    return f" ({strange[0]} ...: names of another library's layout; the folder or archive with its config.json is converted, a file of tensors alone is not)"


def as_the_weights(differs: Differences) -> list[str]:
    """The overrides that make the model the weights' own, where their config tells them and the components are the same."""
    typed = overrides(differs)
    return [f"the sizes of the weights' own model: {typed}"] if typed and not any(option.endswith(".name") for option in differs) else []


def numbered(ways: Sequence[str]) -> str:
    return "".join(f"\n  way out {number}: {way}" for number, way in enumerate(ways, 1))


def rows_of(model: Model, prefix: str, found: list[Difference], data: Processor, wanted: list[str]) -> list[str]:
    """Tensors of a part that would be taken over and have rows of entries: by what their modules declare, else by an axis of a vocabulary's size; the
    whole part, where that does not tell."""
    head: Any = model.head
    inputs = {"encoder": model.inputs, "decoder": [model.written] if model.written is not None else []}
    specs: list[Any] = [data.inputs[name].spec for name in inputs[prefix]] if prefix in inputs else [head.target]
    sizes: set[int] = set()
    for spec in specs:
        sizes |= {getattr(spec, "vocab_size", 0), *getattr(spec, "categories", ())}
        for size in (getattr(spec, "num_classes", 0), getattr(spec, "num_items", 0), len(getattr(spec, "columns", ()))):
            sizes |= {size, size + 1} if size else set()
    names = {name: set(tensor.shape) for name, tensor in model.state_dict().items() if name.startswith(f"{prefix}.")}
    declared, others = rows_declared(model)
    telling = [name for name, shape in names.items() if name in declared or (shape & sizes and name not in others)]
    if not {entry.entry for entry in found}.isdisjoint({"numbers", "categories", "missing"}):
        telling = []
    return [name for name in telling or names if name in wanted]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
