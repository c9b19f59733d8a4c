"""The ``zoo`` command. Each command is a module with ``run(arguments) -> exit code``, imported only when it is asked for."""

import importlib
import os
import sys
from collections.abc import Sequence

from zoo.cli.output import OURS, note, report, say
from zoo.errors import ZooError, did_you_mean

COMMANDS = {
    "train": "train a model that is composed by overrides; sweeps with -m",
    "eval": "measure a run or a bundle on a split of its data",
    "predict": "answers for files, texts, rows or identifiers",
    "chat": "a conversation with a model that was trained on conversations",
    "neighbours": "the nearest of vectors that predict wrote",
    "pull": "fetch, check and convert a pretrained model",
    "cache": "what was fetched: list, verify, prune",
    "export": "write a bundle from any checkpoint, or another library's layout",
    "card": "write the model card of a run",
    "push": "publish a model",
    "list": "components, presets, experiments and pretrained models",
    "show": "one component's options, or a composed model's shapes and cost",
    "batch": "the largest batch whose step stays under a memory limit",
    "check": "compose, build on the meta device and step once, without touching data",
    "plan": "memory, traffic and time of a run on devices that need not be there",
}
HELP = """zoo: compose, check, train, resume and use models for text, images, sound and interactions

usage: zoo COMMAND [arguments]      zoo COMMAND --help

{commands}

for every command
  --json           one JSON document on standard output, everything else on standard error
  --import X       a module or a file with components of your own (again for more)
  --debug          the whole traceback of an error

examples
  zoo train                                               a small network on real digits, in seconds
  zoo train model/encoder=vit_tiny model.encoder.depth=6 trainer.max_steps=500
  zoo train -m optimizer.lr=0.001,0.003 seed=0,1          four runs
  zoo train experiment=fashion_mnist_cnn
  zoo list encoder          zoo show vit          zoo predict runs/NAME/TIME/bundle picture.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; never raises for the user's mistakes."""
    words, imports, debug = split_common(list(sys.argv[1:] if arguments is None else arguments))
    as_json = "--json" in words
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            say(HELP.format(commands="\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())))
            return 0
        if words[0] == "--version":
            from zoo import __version__

            say(f"zoo {__version__}")
            return 0
        place = next((place for place, word in enumerate(words) if not word.startswith("-")), 0)  # `zoo --json list` is `zoo list --json`
        command, rest = words[place], [*words[:place], *words[place + 1 :]]
        if command not in COMMANDS:
            raise ZooError(f"zoo has no command {command!r}; {did_you_mean(command, COMMANDS)}")
        if imports:
            from zoo.plugins import import_components

            import_components(imports)
        module = importlib.import_module(f"zoo.cli.{command}")
        code: int = module.run(rest)
        return code
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OURS
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told
        return report(error, debug=debug, as_json=as_json)


def split_common(words: list[str]) -> tuple[list[str], list[str], bool]:
    """The words of the command, what to import, and whether to debug. ``--import`` stands anywhere, and may be given again."""
    rest, imports, debug = [], [], False
    remaining = iter(words)
    for word in remaining:
        if word == "--import":
            imports.append(next(remaining, ""))
        elif word.startswith("--import="):
            imports.append(word.removeprefix("--import="))
        elif word == "--debug":
            debug = True
        else:
            rest.append(word)
    return rest, imports, debug


if __name__ == "__main__":
    sys.exit(main())
