"""``zoo neighbours``: the nearest of the vectors that ``zoo predict --vectors`` wrote."""

from collections.abc import Sequence
from typing import Any

from zoo.cli.output import DONE, say, say_json, table
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError

HELP = """usage: zoo neighbours VECTORS [--of NAME ... | --queries OTHER_VECTORS] [options]

The nearest of the vectors in a file, by cosine. `zoo predict MODEL ... --vectors FILE` writes such files (.npy or .parquet).

  zoo neighbours words.npy --of king --of queen        those nearest to two of them; a vector is no neighbour of its own
  zoo neighbours documents.npy --queries questions.npy   for each of the others, by the same model
  zoo neighbours words.npy                             for every one of them

options
  --of NAME        what to look for, as `zoo predict` was given it (again for more)
  --queries FILE   vectors to look for
  --top K          neighbours of each (5)
  --index I        exact, or hnsw: a graph that is faster for many queries and may miss some (pip install 'zoo-ml[search]')
  --json --debug   as for every command: a list with one object per query"""


def run(arguments: Sequence[str]) -> int:
    from zoo.cli.predict import whole

    parser = CommandParser("neighbours", "zoo neighbours VECTORS --of NAME")
    parser.add_argument("--of", action="append", default=[])
    parser.add_argument("--queries")
    parser.add_argument("--top", type=whole(1), default=5)
    parser.add_argument("--index", choices=("exact", "hnsw"), default="exact")
    parser.add_argument("vectors", nargs="?")
    options = parser.options_of(arguments, HELP, ("vectors", "which file of vectors?"))
    if options is None:
        return DONE
    if options.of and options.queries:
        raise ZooError("--of and --queries: both say what to look for\n  way out: one of them")
    from zoo.inference.vectors import Index, checked_path, load_vectors, nearest

    vectors = load_vectors(checked_path(options.vectors))
    own: list[int] | None = None
    if options.queries:
        asked = load_vectors(checked_path(options.queries))
        names, queries = asked.names, asked.values
    else:
        own = [vectors.place(name) for name in options.of] if options.of else list(range(len(vectors)))
        names, queries = [vectors.names[row] for row in own], vectors.values[own]
    found = nearest(vectors.values, queries, options.top, leave_out=own, index=Index(options.index))
    answers: list[dict[str, Any]] = [
        {"of": name, "neighbours": [{"name": vectors.names[row], "similarity": cosine} for row, cosine in ranked]}
        for name, ranked in zip(names, found, strict=True)
    ]
    if options.json:
        say_json(answers)
    else:
        rows = [[answer["of"], ", ".join(f"{near['name']} {near['similarity']:.3f}" for near in answer["neighbours"])] for answer in answers]
        say(table(rows, ("of", "neighbours, cosine")))
    return DONE
