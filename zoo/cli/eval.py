"""``zoo eval``: measure a finished model on a split of its data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zoo.cli.output import DONE, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.cli.predict import whole
from zoo.errors import ZooError
from zoo.inference.sampling import Sampling

HELP = """usage: zoo eval RUN_OR_BUNDLE [--split test] [--device auto] [data.key=value] ...

Measures a model on a split of the data it was trained on: the same figures as at the end of training.

  zoo eval runs/digits/20260101-120000
  zoo eval BUNDLE --split validation
  zoo eval BUNDLE data.root=/other/folder data.eval_batch_size=256     the same kind of data in another place
  zoo eval RUN --write --beams 4 --tokens 96                 what it writes, against the references: BLEU, chrF, ROUGE; answers that it finds:
                                                             exact match and F1 by SQuAD's rules
  zoo eval PRETRAINED data=image_folder data.root=FOLDER     weights that zoo did not train, on data with their inputs and labels

options
  --split NAME     train, validation or test
  --device D       auto, cpu, cuda ...; the run's own if not given
  --write          of a model whose decoder writes: its texts are compared with the data's; --rows N takes the first rows alone,
                   --tokens, --beams and --length-penalty are as for zoo predict
  --json --import X --debug as for every command; keys: run, bundle, split, metrics, tables (with --write: protocol, texts), seconds, parameters"""

SHOWN = 3
"""Texts that are shown; --json gives all."""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("eval", "zoo eval RUN_OR_BUNDLE [--split test] [data.key=value]")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rows", type=whole(1))
    parser.add_argument("--tokens", type=whole(1))
    parser.add_argument("--beams", type=whole(1))
    parser.add_argument("--length-penalty", type=float)
    parser.add_argument("words", nargs="*")
    options = parser.options_of(arguments, HELP, ("words", "which run or bundle?"))
    if options is None:
        return DONE
    written = {"rows": options.rows, "max_tokens": options.tokens, "beams": options.beams, "length_penalty": options.length_penalty}
    written = {name: value for name, value in written.items() if value is not None}
    if written and not options.write:
        raise ZooError("--rows, --tokens, --beams and --length-penalty are of texts that are written\n  way out: with --write")
    rows = written.pop("rows", None)
    sampling = Sampling(**written)
    from zoo.hub.bundle import open_bundle
    from zoo.hub.resolve import resolve

    path = resolve(options.words[0])
    bundle = open_bundle(path)  # what is wrong with it is told before torch is imported
    if options.write:
        return write(path, options, sampling, rows)
    with only_json(options.json):
        from zoo.inference.evaluate import evaluate_bundle

        measured = evaluate_bundle(path, split=options.split, overrides=options.words[1:], device=options.device)
    metrics, model = measured.evaluation.figures, measured.loaded.model
    if options.json:
        result = {
            "run": str(bundle.path.parent) if bundle.path != path else None,
            "bundle": str(bundle.path),
            "split": options.split,
            "metrics": metrics,
            "tables": measured.evaluation.tables,
            "seconds": round(measured.seconds, 3),
            "parameters": model.num_parameters(),
        }
        say_json(result)
        return DONE
    from zoo.training.report import figure, plain_table

    rows = [(name, figure(value), figure(bundle.metrics.get(name))) for name, value in metrics.items()]
    say("\n".join(plain_table(("metric", "now", "after training"), rows)))
    if protocol := getattr(model.head, "protocol", ""):
        say(f"\n{protocol}")
    return DONE


def write(path: Path, options: argparse.Namespace, sampling: Sampling, rows: int | None) -> int:
    """What the model writes of a split, beside the references."""
    from zoo.hub.bundle import open_bundle

    with only_json(options.json):
        from zoo.inference.written import write_split

        found = write_split(path, split=options.split, overrides=options.words[1:], sampling=sampling, rows=rows, device=options.device)
    bundle = open_bundle(path)
    if options.json:
        say_json(
            {
                "run": str(bundle.path.parent) if bundle.path != path else None,
                "bundle": str(bundle.path),
                "split": options.split,
                "metrics": found.figures,
                "protocol": found.protocol,
                "texts": found.texts,
                "seconds": round(found.seconds, 3),
                "parameters": found.parameters,
            }
        )
        return DONE
    from zoo.training.report import figure, plain_table

    for entry in found.texts[:SHOWN]:
        say(f"{entry['input']}\n  written:   {entry['text']}\n  reference: {entry['reference']}\n")
    say("\n".join(plain_table(("metric", "percent"), [(name, figure(value)) for name, value in found.figures.items()])))
    say("\n" + "\n".join(f"{name}: {how}" for name, how in found.protocol.items()))
    return DONE
