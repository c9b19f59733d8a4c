"""Break configs and command lines in every way that people do, and see what zoo says.

    python tools/mutate_configs.py            # each as its own process, with wall time, exit code, and whether torch was imported
    python tools/mutate_configs.py --show     # with the messages

Tests use ``mutations()`` in one process; the times are printed here and asserted nowhere.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.compose import compose
from zoo.config import MODEL_PARTS, RunConfig
from zoo.registry import KINDS
from zoo.schema import OptionType, settings_options
from zoo.settings import GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings

BASES = {
    "image": ["data=digits", "model/encoder=vit", "model.encoder.patch_size=4"],
    "history": ["data=movielens", "data.root=DATA", "model/encoder=transformer", "model/head=next_item"],
}
PROCESS = "import sys; from zoo.cli.main import main; code = main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"


@dataclass(frozen=True)
class Mutation:
    """One broken command line.

    Args:
        kind: what was done to it.
        arguments: after ``zoo train``.
        path: a part of the dotted path that the message has to name.
        files: config files to write first, under the working directory.
        tensors: the mistake is seen only when the model is built.
    """

    kind: str
    arguments: tuple[str, ...]
    path: str
    files: dict[str, str] = field(default_factory=dict)
    tensors: bool = False


def mutations() -> list[Mutation]:
    """More than 100, derived from the composed configs and the components' schemas."""
    found: list[Mutation] = []
    for base in BASES.values():
        found += [mutation for make in (misspelt_keys, wrong_types, misspelt_enums) for mutation in make(base)]
    found += [*wrong_groups(), *misspelt_choices(), *files(), *out_of_range(), *does_not_fit()]
    return list({(mutation.arguments, tuple(mutation.files.values())): mutation for mutation in found}.values())


def leaves(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Dotted paths of single options."""

    def walk(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            where = f"{path}.{key}".lstrip(".")
            if isinstance(value, dict):
                yield from walk(value, where)
            elif key != "name" or not path:
                yield where, value

    yield from walk(config.to_dict(), "")


def misspelt(word: str) -> str:
    """Two letters swapped, or the only one doubled."""
    swapped = word[:-2] + word[:-3:-1]
    return swapped if swapped != word and len(word) > 2 else word + "x"


def misspelt_keys(base: list[str]) -> Iterator[Mutation]:
    for number, (path, value) in enumerate(leaves(compose(base))):
        parent, _, leaf = path.rpartition(".")
        wrong = f"{parent}.{misspelt(leaf)}".lstrip(".")
        sign = ("", "+", "++")[number % 3]
        yield Mutation(f"misspelt key, {sign or 'plain'}", (*base, f"{sign}{wrong}={override_value(value)}"), wrong)


def override_value(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else f"'{value}'"


def wrong_types(base: list[str]) -> Iterator[Mutation]:
    for number, (path, kind) in enumerate(typed(compose(base))):
        values = [value for value in ("several words", "{a: 1}", "1.5", "true", "4") if not accepts(kind, value)]
        if values and number % 2 == 0:
            yield Mutation("wrong type", (*base, f"++{path}={values[number % len(values)]}"), path)


def typed(config: RunConfig) -> Iterator[tuple[str, OptionType]]:
    """Every option of a composed config with its type."""
    settings = {"": RunSettings, "data.": LoaderSettings, "model.": ModelSettings, "trainer.": TrainerSettings, "parallel.": ParallelSettings}
    settings |= {"model.lora.": LoraSettings, "optimizer.": GroupSettings}
    for prefix, kind in settings.items():
        yield from ((prefix + option.name, option.type) for option in settings_options(kind))
    nodes = {"data": ("dataset", config.data), "optimizer": ("optimizer", config.optimizer), "schedule": ("schedule", config.schedule)}
    nodes |= {f"model.{part}": (part, getattr(config, part)) for part in MODEL_PARTS}
    for path, (kind_name, node) in nodes.items():
        yield from ((f"{path}.{option.name}", option.type) for option in KINDS[kind_name].schema(node["name"]).options)


def accepts(kind: OptionType, text: str) -> bool:
    """Whether a value of this text could be meant for the type."""
    forms = {part.form for part in (kind.args if kind.form == "union" else (kind,))}
    by_text = {"several words": {"str"}, "{a: 1}": {"dict", "component"}, "1.5": {"float"}, "true": {"bool"}, "4": {"int", "float"}}
    return bool(forms & by_text[text])


def misspelt_enums(base: list[str]) -> Iterator[Mutation]:
    for path, kind in typed(compose(base)):
        if kind.form in ("enum", "literal"):
            yield Mutation("misspelt value", (*base, f"{path}={misspelt(str(kind.choices[0]))}"), path)


def wrong_groups() -> Iterator[Mutation]:
    for arguments, path in (
        ("model.encoder=vit", "model.encoder"),
        ("model.head=next_item", "model.head"),
        ("encoder=vit", "encoder"),
        ("head=regression", "head"),
        ("optimizer.adamw=1", "optimizer.adamw"),
        ("optimizer/lr=0.1", "optimizer.lr"),
        ("trainer/max_steps=5", "trainer.max_steps"),
        ("max_steps=5", "max_steps"),
        ("lr=0.1", "lr"),
        ("batch_size=5", "batch_size"),
        ("data/batch_size=5", "data.batch_size"),
        ("+model/encoder=vit", "model/encoder"),
        ("model/encoder/vit=1", "model.encoder.vit"),
        ("model=vit", "model"),
        ("data.digits=1", "data.digits"),
        ("parallel.ddp=2", "parallel.ddp"),
        ("data/tokenizer=byte", "data.tokenizer"),
        ("logger.tensorboard.folder=x", "logger.tensorboard.folder"),
        ("trainer=max_steps", "trainer"),
        ("optimizer=null", "optimizer"),
        ("model/encoder=null", "model.encoder"),
        ("~optimizer", "optimizer"),
        ("~model.encoder", "model.encoder"),
        ("~trainer.max_stepss", "trainer.max_stepss"),
        ("+seed=4", "seed"),
        ("seed=1,2", "seed"),
        ("optimizer.lr=range(1,3)", "optimizer.lr"),
        ("optimizer.lr", "optimizer.lr"),
        ("optimizer.lr==3", "optimizer.lr"),
        ("seed=${oc.env:NOT_SET_ANYWHERE}", "seed"),
        ("name=${nothing.here}", "name"),
    ):
        yield Mutation("wrong group or place", (arguments,), path)


def misspelt_choices() -> Iterator[Mutation]:
    for registry in KINDS.values():
        if registry.kind in ("transform", "logger", "callback", "tokenizer") or not registry.names():
            continue
        wrong = misspelt(registry.names()[-1])
        yield Mutation("misspelt choice", (f"{registry.group}={wrong}",), registry.group.replace("/", "."))
    for group in ("trainer", "parallel", "experiment", "model", "logger", "callback"):
        yield Mutation("misspelt choice", (f"{group}=debgu",), group)


def files() -> Iterator[Mutation]:
    preset = "defaults:\n  - vit\n  - _self_\ndepht: 3\n"
    yield Mutation("preset file with a misspelt key", ("model/encoder=mine",), "model.encoder.depht", {"conf/model/encoder/mine.yaml": preset})
    wrong = "defaults:\n  - vit\n  - _self_\ndepth: three\n"
    yield Mutation("preset file with a wrong type", ("model/encoder=mine",), "model.encoder.depth", {"conf/model/encoder/mine.yaml": wrong})
    experiment = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\ntrainer:\n  max_step: 4\n"
    yield Mutation("experiment with a misspelt key", ("experiment=mine",), "trainer.max_step", {"conf/experiment/mine.yaml": experiment})
    chosen = "# @package _global_\ndefaults:\n  - override /optimizer: sdg\n"
    yield Mutation("experiment with a misspelt choice", ("experiment=mine",), "optimizer", {"conf/experiment/mine.yaml": chosen})
    yield Mutation("experiment that is no YAML", ("experiment=mine",), "mine.yaml", {"conf/experiment/mine.yaml": "# @package _global_\na: [1\n"})
    yield Mutation("unknown config name", ("--config-name", "trian"), "config-name")
    yield Mutation("unknown option", ("--multi-run",), "multi-run")


def out_of_range() -> Iterator[Mutation]:
    for arguments, path in (
        ("trainer.max_steps=0", "trainer.max_steps"),
        ("trainer.accumulate=0", "trainer.accumulate"),
        ("trainer.clip_norm=-1", "trainer.clip_norm"),
        ("trainer.ema=2", "trainer.ema"),
        ("data.batch_size=0", "data.batch_size"),
        ("parallel.processes=0", "parallel.processes"),
        ("seed=-1", "seed"),
        ("name=a/b", "name"),
        ("name=a=b", "name"),
    ):
        yield Mutation("out of range", (arguments,), path)
    yield Mutation("no end", ("trainer.max_epochs=null",), "trainer.max_steps")


def does_not_fit() -> Iterator[Mutation]:
    """Mistakes that only the parts together show."""
    for arguments, path in (
        (("model/encoder=vit", "model.encoder.patch_size=5"), "model.encoder"),
        (("model/encoder=vit", "model.encoder.patch_size=3"), "model.encoder"),
        (("model/encoder=lstm",), "model.encoder"),
        (("model/encoder=transformer",), "model.encoder"),
        (("model/encoder=audio_cnn",), "model.encoder"),
        (("model/head=next_item",), "model.head"),
        (("model/head=regression",), "model.head"),
        (("model.input=text",), "model.input"),
        (("model.target=rating",), "model.target"),
        (("data/augment=[spec_augment]",), "data.augment"),
        (("data=movielens", "data.root=DATA", "model/encoder=lstm", "model.encoder.direction=both", "model/head=next_item"), "model"),
        (("trainer.monitor=validation/acuracy",), "trainer.monitor"),
        (("trainer.device=abacus",), "trainer.device"),
        (("init_skip=[haed]", "init=nowhere"), "init_skip"),
        (("optimizer.lr=-1",), "optimizer"),
    ):
        yield Mutation("parts that do not fit", arguments, path, tensors=True)
    yield Mutation("parts that do not fit", ("schedule.warmup_steps=50", "trainer.max_steps=40"), "schedule.warmup_steps", tensors=False)
    yield Mutation("parts that do not fit", ("trainer.accumulate=4", "data.batch_size=2"), "data.batch_size", tensors=False)
    yield Mutation("parts that do not fit", ("trainer.monitor=accuracy",), "trainer.monitor", tensors=False)
    yield Mutation("parts that do not fit", ("init_skip=[head]",), "init_skip", tensors=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print each message")
    parser.add_argument("--every", type=int, default=1, help="run only each n-th")
    options = parser.parse_args()
    rows, wrong = [], 0
    for mutation in mutations()[:: options.every]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in mutation.files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_text(text)
            begun = time.perf_counter()
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            done = subprocess.run([sys.executable, "-c", PROCESS, "train", *mutation.arguments], cwd=folder, env=environment, capture_output=True, text=True)
            seconds = time.perf_counter() - begun
            left = [str(path) for path in Path(folder).rglob("*") if path.is_file() and "conf" not in path.parts]
        message, _, torch = done.stderr.rstrip().rpartition("\n")
        fine = done.returncode == 2 and mutation.path in message and "way out" in message and not left and (torch == "False" or mutation.tensors)
        wrong += not fine
        rows.append((seconds, torch == "True", mutation))
        print(f"{'ok ' if fine else 'NOT'} {seconds:5.2f} s  exit {done.returncode}  torch {torch:<5}  {mutation.kind}: {' '.join(mutation.arguments)}")
        if options.show or not fine:
            print("    " + done.stderr.replace("\n", "\n    "))
    for heavy in (False, True):
        times = sorted(seconds for seconds, torch, _ in rows if torch is heavy)
        if times:
            print(f"{'with' if heavy else 'without'} torch: {len(times)}, median {times[len(times) // 2]:.2f} s, slowest {times[-1]:.2f} s")
    print(f"{len(rows) - wrong} of {len(rows)} refused as they should be")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
