r"""Are words that WordNet relates near each other? Word vectors of a run, and beside them gensim's of the same words, settings and epochs.

    python tools/word_vectors.py runs/bible_words/TIME wordnet-base/usr/share/wordnet [--gensim 1,2,3] [--epochs 30]

Two words are related where they share a synset, or one's synset is the direct hypernym of the other's or has one in common with it (nouns and verbs;
adjectives and adverbs by their synsets alone). Asked are all words of the vocabulary that have a related word in it; their neighbours are looked for among
all words of the vocabulary that WordNet has, by cosine. Told are precision at 10, the share of the ten nearest that are related, recall at 10, the share of
words with a related one among the ten nearest, and the same for random vectors. The figures were laid down before anything was trained.

gensim (`pip install gensim`) reads the training split's texts as the run did: the same words, unknown ones left out.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tools.figures import markdown, use_this_tree

use_this_tree()

K = 10
PARTS = ("noun", "verb", "adj", "adv")
DIRECT = ("@", "@i")


def senses(folder: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Synsets of each word, and direct hypernyms of each synset (file layout: wndb(5WN))."""
    words: dict[str, set[str]] = defaultdict(set)
    above: dict[str, set[str]] = {}
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields = line.partition(" | ")[0].split()
            synset, count = f"{part[0]} {fields[0]}", int(fields[3], 16)
            for lemma in fields[4 : 4 + 2 * count : 2]:
                words[lemma.partition("(")[0].lower()].add(synset)
            pointers = fields[5 + 2 * count :]
            number = int(fields[4 + 2 * count])
            above[synset] = {f"{pointers[4 * place + 2]} {pointers[4 * place + 1]}" for place in range(number) if pointers[4 * place] in DIRECT}
    return words, above


def related(vocabulary: list[str], folder: Path) -> tuple[list[str], np.ndarray]:
    """The words that WordNet has, and which of them are related: L L bool."""
    words, above = senses(folder)
    known = [word for word in vocabulary if word in words]
    own = [words[word] for word in known]
    up = [set().union(*(above[synset] for synset in synsets)) for synsets in own]

    def meets(first: list[set[str]], second: list[set[str]]) -> np.ndarray:
        names = {name: number for number, name in enumerate(sorted(set().union(*first, *second)))}
        tables = [np.zeros((len(known), len(names)), dtype=np.float32) for _ in range(2)]
        for table, sets in zip(tables, (first, second), strict=True):
            for row, found in enumerate(sets):
                table[row, [names[name] for name in found]] = 1
        return tables[0] @ tables[1].T > 0

    found = meets(own, own) | meets(up, up) | meets(own, up) | meets(up, own)
    np.fill_diagonal(found, False)
    return known, found


def figures(vectors: np.ndarray, pairs: np.ndarray) -> tuple[float, float, int]:
    """Precision and recall at 10, and how many words were asked."""
    asked = pairs.any(axis=1)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argpartition(-scores, K, axis=1)[:, :K]
    hits = np.take_along_axis(pairs, nearest, axis=1)[asked]
    return float(hits.mean()), float(hits.any(axis=1).mean()), int(asked.sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs with model/head=skip_gram")
    parser.add_argument("wordnet", type=Path, help="folder of data.noun, data.verb, data.adj and data.adv")
    parser.add_argument("--gensim", default="", help="seeds to train gensim with")
    parser.add_argument("--epochs", type=int, help="of gensim, where not those of the last run")
    options = parser.parse_args()
    import torch

    import zoo
    from zoo.build import build_dataset
    from zoo.config import RunConfig

    rows = []
    for run in options.runs:
        model = zoo.load(run)
        (name, codec), *_ = model.processor.inputs.items()
        names = {number: word for word, number in codec.tokenizer.library.get_vocab().items()}
        counts = torch.tensor(model.target.counts)
        vocabulary = [names[number] for number in counts.nonzero().flatten().tolist()]
        known, pairs = related(vocabulary, options.wordnet)
        table = model.model.encoder.embedding.weight.detach().numpy()
        numbers = {word: number for number, word in names.items()}
        rows.append([f"zoo {run}", *figures(table[[numbers[word] for word in known]], pairs)])
        print(rows[-1], file=sys.stderr)
    rows.append(["random", *figures(np.random.default_rng(0).standard_normal((len(known), 100)), pairs)])
    if seeds := [int(seed) for seed in options.gensim.split(",") if seed]:
        from gensim.models import Word2Vec

        config = RunConfig.load(options.runs[-1] / "config.yaml")
        data = build_dataset(config).open()
        split = data.splits["train"]
        (codec,) = data.inputs.values()
        texts = [[names[number] for number in codec.ids(split.read(row)[name]) if counts[number]] for row in range(len(split))]
        head = model.model.head
        for seed in seeds:
            made = Word2Vec(
                texts,
                sg=1,
                vector_size=table.shape[1],
                window=head.window,
                negative=head.negatives,
                sample=config.head["sample"],
                ns_exponent=head.noise_power,
                min_count=1,
                epochs=options.epochs or config.trainer.max_epochs,
                workers=1,
                seed=seed,
            )
            rows.append([f"gensim, seed {seed}, {made.epochs} epochs", *figures(np.stack([made.wv[word] for word in known]), pairs)])
            print(rows[-1], file=sys.stderr)
    print(markdown(("vectors", "precision@10", "recall@10", "words asked"), [[name, f"{p:.3f}", f"{r:.3f}", str(asked)] for name, p, r, asked in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
