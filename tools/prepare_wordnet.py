"""Write WordNet (Miller, 1995, https://doi.org/10.1145/219717.219748) as tables, one JSON object a line.

usage: python tools/prepare_wordnet.py [--data DEST/x]

wordnet/glosses.jsonl   `text` (a lemma, or a gloss), `concept` (the synset, which both share), `siblings`, `split`: for vectors of texts
wordnet/lemmas.jsonl    `gloss`, `lemma` (the synset's first), `part`, `split`: a word from its definition
wordnet/questions.jsonl `question`, `context`, `answer`, `start`, `split`: an answer with its place. No set of questions that people asked: the context is
                        several definitions made into sentences, the question one of the definitions, by one of a few templates.

Splits go by the hash of a synset's first lemma, so that all senses of a word are in one: 5 % test, 5 % validate. Other lemmas of a synset that trains are
there where their own hash trains. `siblings` binds up to four synsets of one direct hypernym (for adjectives the head that they are similar to): they are
harder to tell apart than any others. A gloss is what follows the bar in WordNet's files, with its examples. `tools/fetch_real_data.py wordnet` calls this.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

SOURCE = "wordnet-base/usr/share/wordnet"
TARGET = "wordnet"
PARTS = ("noun", "verb", "adj", "adv")
ABOVE = ("@", "@i", "&")
SIBLINGS = 4
DEFINITIONS = 4
TEMPLATES = ("What is {}?", "Which word means {}?", "Which {part} stands for {}?")
NAMES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


@dataclass(frozen=True)
class Synset:
    """One line of WordNet's files (wndb(5WN))."""

    key: str
    part: str
    lemmas: tuple[str, ...]
    above: str | None
    gloss: str

    @property
    def definition(self) -> str:
        """Without the examples."""
        return self.gloss.split('; "')[0].strip()


def split_of(lemma: str) -> str:
    """By the hash of a lemma."""
    place = int.from_bytes(blake2b(lemma.lower().encode(), digest_size=8).digest()) / 2**64
    return "test" if place < 0.05 else "validation" if place < 0.1 else "train"


def synsets(folder: Path) -> Iterator[Synset]:
    """All of them, in the order of the files."""
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            count = int(fields[3], 16)
            lemmas = [word.partition("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]  # adjectives may carry a marker, (a)
            pointers = fields[5 + 2 * count :]
            triples = [pointers[4 * place : 4 * place + 3] for place in range(int(fields[4 + 2 * count]))]
            above = next((f"{pointer[2]} {pointer[1]}" for pointer in triples if pointer[0] in ABOVE), None)
            yield Synset(f"{part} {fields[0]}", part, tuple(dict.fromkeys(lemmas)), above, gloss.strip())


def order(text: str) -> bytes:
    """The same everywhere, and without meaning."""
    return blake2b(text.encode(), digest_size=8).digest()


def siblings(found: list[Synset]) -> dict[str, str]:
    """A name for each synset that those that stand together share; within a split."""
    families: dict[tuple[str, str], list[Synset]] = defaultdict(list)
    for synset in found:
        families[synset.above or synset.key, split_of(synset.lemmas[0])].append(synset)
    return {synset.key: group[0].key for family in families.values() for group in batched_by_hash(family) for synset in group}


def batched_by_hash(family: list[Synset]) -> Iterator[tuple[Synset, ...]]:
    family = sorted(family, key=lambda synset: order(synset.key))
    return (tuple(family[start : start + SIBLINGS]) for start in range(0, len(family), SIBLINGS))


def glosses(found: list[Synset]) -> Iterator[dict[str, Any]]:
    bound = siblings(found)
    for synset in found:
        split = split_of(synset.lemmas[0])
        lemmas = [synset.lemmas[0], *(lemma for lemma in synset.lemmas[1:] if split == split_of(lemma) == "train")]
        for text in (*lemmas, synset.gloss):
            yield {"text": text, "concept": synset.key, "siblings": bound[synset.key], "split": split}


def lemmas(found: list[Synset]) -> Iterator[dict[str, Any]]:
    for synset in found:
        yield {"gloss": synset.gloss, "lemma": synset.lemmas[0], "part": synset.part, "split": split_of(synset.lemmas[0])}


def questions(found: list[Synset]) -> Iterator[dict[str, Any]]:
    """One question for each context of a few definitions."""
    groups: dict[str, list[Synset]] = defaultdict(list)
    for synset in found:
        groups[split_of(synset.lemmas[0])].append(synset)
    for split, group in groups.items():
        ordered = sorted(group, key=lambda synset: order(synset.key))
        for few in (ordered[place : place + DEFINITIONS] for place in range(0, len(ordered), DEFINITIONS)):
            chosen = order(f"{few[0].key} asked")
            asked = few[chosen[0] % len(few)]
            told, start = "", 0
            for synset in few:
                told += " " if told else ""
                start = len(told) if synset is asked else start
                told += f"{synset.lemmas[0]} means {synset.definition}."
            question = TEMPLATES[chosen[1] % len(TEMPLATES)].format(asked.definition, part=NAMES[asked.part])
            yield {"question": question, "context": told, "answer": asked.lemmas[0], "start": start, "split": split}


def prepare(data: Path) -> dict[str, int]:
    """How many rows of each file were written."""
    found = list(synsets(data / SOURCE))
    (data / TARGET).mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, rows in (("glosses", glosses(found)), ("lemmas", lemmas(found)), ("questions", questions(found))):
        counts[name] = 0
        with (data / TARGET / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[name] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    options = parser.parse_args()
    print(", ".join(f"{name} {count:,}" for name, count in prepare(options.data).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
