"""Whether data that was opened at two times means the same: equal codecs, equal vocabularies, equal splits.

A run keeps its processor, the sizes of its splits and the data's notes from before its first step, in ``RUN/processor``. What goes on
from a run or starts from its weights compares the data that it opens with that: sizes of vocabularies may agree where their entries
do not.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.data.base import InputCodec, OpenData, TargetCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError, DataError

Codec = InputCodec | TargetCodec
FOLDER, FACTS = "processor", "data.json"
VOCABULARY: dict[str, frozenset[str]] = {
    "text": frozenset({"tokenizer"}),
    "history": frozenset({"items"}),
    "table": frozenset({"numbers", "categories", "missing", "values"}),
    "class": frozenset({"labels", "labelling"}),
    "number": frozenset({"columns"}),
    "item": frozenset(),  # its vocabulary is the history's
    "token": frozenset(),  # its vocabulary is the text's
    "masked": frozenset(),  # likewise
    "words": frozenset({"tokenizer"}),
    "tags": frozenset({"labels"}),
    "taught": frozenset({"labels", "labelling"}),
    "text_pair": frozenset({"tokenizer", "first", "second"}),
    "answer": frozenset(),  # its places are the texts'
    "dialogue": frozenset({"tokenizer", "template"}),
    "said": frozenset(),  # its vocabulary is the conversation's
    "written": frozenset({"tokenizer"}),
    "written_token": frozenset(),  # its vocabulary is that of what was written
    "context": frozenset(),  # its vocabulary is the text's
}
"""Keys of a codec's state that say what a model's rows and outputs stand for; files of a codec do so too."""
OF_THE_INPUTS = ("item", "token", "masked", "context", "said", "answer")
"""Kinds of targets whose vocabulary is that of an input: a history's items, a text's tokens or words."""
SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """One entry of one codec that differs.

    Args:
        codec: "input text", "target label".
        entry: "labels", "tokenizer.json".
        before: as kept, shortened.
        now: as opened, shortened.
        vocabulary: whether it says what rows of the model stand for.
    """

    codec: str
    entry: str
    before: str
    now: str
    vocabulary: bool

    def __str__(self) -> str:
        return f"{self.codec}: {self.entry}: {self.before} -> {self.now}"


def codec_differences(codec: str, before: Codec, now: Codec) -> list[Difference]:
    """What differs between two codecs of one input or target.

    Args:
        codec: its name for people.
        before: the one that a model was trained with.
        now: the one of opened data.
    """
    if before.kind != now.kind:
        return [Difference(codec, "kind", before.kind, now.kind, True)]
    old, new = _plain(before), _plain(now)
    found = []
    for entry in dict.fromkeys([*old, *new]):
        if not _same(old.get(entry), new.get(entry)):
            vocabulary = "." in entry or entry in VOCABULARY.get(before.kind, ())
            first, last = _shortened(old.get(entry), new.get(entry))
            found.append(Difference(codec, entry, first, last, vocabulary))
    return found


def differences(before: Processor, now: Processor) -> list[Difference]:
    """What differs between the codecs of two openings, by input and target."""
    found = []
    groups: list[tuple[str, Mapping[str, Codec], Mapping[str, Codec]]] = [("input", before.inputs, now.inputs), ("target", before.targets, now.targets)]
    for group, old, new in groups:
        for name in dict.fromkeys([*old, *new]):
            if name in old and name in new:
                found += codec_differences(f"{group} {name}", old[name], new[name])
            else:
                first, last = ("is there" if name in side else "is not there" for side in (old, new))
                found.append(Difference(f"{group} {name}", "codec", first, last, True))
    return found


# --- of a run -----------------------------------------------------------------------------------------------------------------------


def keep(run_dir: Path, data: OpenData) -> None:
    """Write ``RUN/processor``, whole or not at all."""
    from zoo.hub.files import published

    with published(run_dir / FOLDER) as fresh:
        Processor.of(data).save(fresh)
        facts = {"splits": {name: len(split) for name, split in data.splits.items()}, "notes": data.notes}
        (fresh / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def kept_facts(folder: Path) -> dict[str, Any]:
    """Sizes of the splits and notes beside a processor; empty where there are none, as in a bundle."""
    if not (folder / FACTS).is_file():
        return {"splits": {}, "notes": {}}
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return {"splits": dict(facts["splits"]), "notes": dict(facts["notes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / FACTS}: damaged: {type(error).__name__}: {error}") from error


def check_unchanged(run_dir: Path, data: OpenData, *, allowed: bool = False) -> list[str]:
    """Compare opened data with what the run began with.

    Args:
        run_dir: of a run that is gone on with; without ``processor/`` nothing is known.
        data: as opened now.
        allowed: whether a change was asked for; vocabularies may not change even then.

    Returns:
        The differences that were allowed.

    Raises:
        DataError: with every other one.
    """
    folder = run_dir / FOLDER
    if not (folder / "processor.json").is_file():
        return []
    found = differences(Processor.load(folder), Processor.of(data))
    sizes = kept_facts(folder)["splits"]
    now = {name: len(split) for name, split in data.splits.items()}
    lines = [f"split {name}: {sizes.get(name, 0)} samples -> {now.get(name, 0)}" for name in dict.fromkeys([*sizes, *now]) if sizes.get(name) != now.get(name)]
    lines = [*map(str, found), *lines]
    if lines and not (allowed and not any(difference.vocabulary for difference in found)):
        listed = "\n  ".join(lines[:20]) + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise DataError(
            f"the data has changed since the run in {run_dir} began:\n  {listed}\n"
            f"  way out 1: put the data back as it was, and go on: zoo train resume={run_dir}\n"
            f"  way out 2: start anew on the data as it is: zoo train rerun={run_dir}"
            + ("" if any(difference.vocabulary for difference in found) else "\n  way out 3: if the change is meant: allow=[data]")
        )
    return lines


# --- parts --------------------------------------------------------------------------------------------------------------------------


def _plain(codec: Codec) -> dict[str, Any]:
    """State and files of a codec as JSON values; files by name."""
    state: dict[str, Any] = json.loads(json.dumps(codec.state()))
    if hasattr(codec, "save_files"):
        with TemporaryDirectory() as name:
            folder = Path(name)
            codec.save_files(folder)
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                state[str(file.relative_to(folder))] = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else file.read_bytes()
    return state


def ways_to_keep(inputs: Mapping[str, InputCodec], folder: Path) -> list[str]:
    """What to write for a run that is to keep the vocabularies of the processor in ``folder``."""
    texts = [name for name, codec in inputs.items() if codec.kind in ("text", "words")]
    return [f"use the tokenizer that the weights were trained with: data.tokenizer.path={folder / name}" for name in texts[:1]]


def _same(before: Any, now: Any) -> bool:
    """Equal, but for the last digits of means, which depend on the number of threads that added them up."""
    if before == now:
        return True
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_same, before, now))
    return False


def _shortened(before: Any, now: Any) -> tuple[str, str]:
    """Two values, or their first entries that differ."""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{len(before)} entries", f"{len(now)} entries"
        place = next(place for place, (old, new) in enumerate(zip(before, now, strict=True)) if not _same(old, new))
        return f"number {place} is {_short(before[place])}", _short(now[place])
    if isinstance(before, dict) and isinstance(now, dict):
        return f"{len(before)} entries", "others" if len(before) == len(now) else f"{len(now)} entries"
    return _short(before), _short(now)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
