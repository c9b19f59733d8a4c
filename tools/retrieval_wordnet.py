r"""Which gloss belongs to a word? WordNet's lemmas as queries, glosses as answers, by the vectors of a model that embeds texts.

    python tools/retrieval_wordnet.py wordnet-base/usr/share/wordnet [--model minilm_l6] [--pools 10] [--size 500] [--parts noun,verb,adj,adv] \
        [--gloss definition] [--split test]

Each pool holds ``--size`` synsets, drawn by the hash of their offset and the pool's number, so that they are the same everywhere. A query is a synset's
first lemma, an answer its gloss: what follows the bar in WordNet's files, a definition and perhaps examples, in which the lemma often stands. The harder
--gloss=definition leaves the examples out (Miller, 1995, https://doi.org/10.1145/219717.219748; file layout: wndb(5WN)).
--split takes those synsets alone that a model trained on WordNet (`zoo train experiment=wordnet_vectors`) was not shown.
Told are recall at 1, 5 and 10, mean and standard deviation over the pools.
"""

import argparse
import hashlib
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, use_this_tree
from tools.prepare_wordnet import split_of

use_this_tree()
K = (1, 5, 10)


def synsets(folder: Path, part: str, whole: bool) -> list[tuple[str, str, str]]:
    """Identifier, lemma and gloss of every synset of a part of speech."""
    found = []
    for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        words = fields.split(" ")
        lemma = words[4].split("(")[0].replace("_", " ")  # adjectives may carry a marker, (a)
        found.append((f"{part} {words[0]}", lemma, gloss.strip() if whole else gloss.split('; "')[0].strip()))
    return found


def pool(entries: list[tuple[str, str, str]], number: int, size: int) -> list[tuple[str, str, str]]:
    return sorted(entries, key=lambda entry: hashlib.blake2b(f"{number} {entry[0]}".encode(), digest_size=8).digest())[:size]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="minilm_l6")
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--parts", default="noun,verb,adj,adv")
    parser.add_argument("--gloss", choices=("whole", "definition"), default="whole", help="definition: without the examples")
    parser.add_argument("--split", choices=("all", "train", "validation", "test"), default="all", help="by the hash of a synset's first lemma")
    options = parser.parse_args()
    import torch

    import zoo
    from zoo.heads.retrieval_metrics import ranks, recall

    model = zoo.load(options.model)
    entries = [entry for part in options.parts.split(",") for entry in synsets(options.folder, part, options.gloss == "whole")]
    entries = [entry for entry in entries if options.split in ("all", split_of(entry[1]))]
    figures: dict[int, list[float]] = {k: [] for k in K}
    for number in range(options.pools):
        chosen = pool(entries, number, options.size)
        texts = [lemma for _, lemma, _ in chosen] + [gloss for _, _, gloss in chosen]
        vectors = torch.tensor([answer["vector"] for answer in model.predict(texts, batch_size=64)])
        rank = ranks(vectors[: len(chosen)], vectors[len(chosen) :], torch.arange(len(chosen)))
        for k in K:
            figures[k].append(recall(rank, k))
    rows = [[f"recall@{k}", f"{statistics.fmean(found):.3f}", f"{statistics.stdev(found) if len(found) > 1 else 0.0:.3f}"] for k, found in figures.items()]
    print(f"{options.model}, {len(entries):,} synsets, {options.pools} pools of {options.size}\n")
    print(markdown(["figure", "mean", "standard deviation"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
