"""Write the verses that the World English Bible and the Reina-Valera of 1909 (both public domain) have in common, one JSON object a line: `book`,
`chapter`, `verse`, `english`, `spanish`, `split`.

usage: python tools/prepare_bible_pairs.py [--data DEST/x]

The rule: verses are joined on book, chapter and number; footnotes, cross references and the titles of psalms are left out, and so is a verse that is
empty in one of the two. Splits are whole books, by their place among the 66: the last digit 4 validates, 9 tests (from 0), so that nothing of a held-out
book was read in training. `tools/fetch_real_data.py bible` calls this. It reads the SWORD modules with pysword (`pip install pysword`).
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from prepare_bible import plain

SOURCES = {"english": "sword-text-web/usr/share/sword", "spanish": "sword-text-sparv/usr/share/sword"}
TARGET = "bible/pairs.jsonl"
SPLITS = {4: "validation", 9: "test"}


def verses(folder: Path) -> dict[tuple[str, int, int], str]:
    """Text by book, chapter and number.

    Raises:
        ModuleNotFoundError: without pysword.
    """
    from pysword.modules import SwordModules

    modules = SwordModules(str(folder))
    (name,) = modules.parse_modules()
    bible: Any = modules.get_bible_from_module(name)
    found: dict[tuple[str, int, int], str] = {}
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter, length in enumerate(book.chapter_lengths, 1):
                markup = bible.get_iter(books=[book.name], chapters=[chapter], verses=list(range(1, length + 1)), clean=False)
                found |= {(book.name, chapter, number): plain(verse) for number, verse in enumerate(markup, 1)}
    return found


def prepare(data: Path) -> dict[str, int]:
    """How many pairs of each split were written to ``data / TARGET``."""
    english, spanish = (verses(data / folder) for folder in SOURCES.values())
    places = {book: place for place, book in enumerate(dict.fromkeys(book for book, _, _ in english))}
    target = data / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "validation": 0, "test": 0}
    with target.open("w", encoding="utf-8") as file:
        for (book, chapter, number), text in english.items():
            other = spanish.get((book, chapter, number), "")
            if not text or not other:
                continue
            split = SPLITS.get(places[book] % 10, "train")
            row = {"book": book, "chapter": chapter, "verse": number, "english": text, "spanish": other, "split": split}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[split] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    options = parser.parse_args()
    if lacking := [str(options.data / folder) for folder in SOURCES.values() if not (options.data / folder).is_dir()]:
        raise SystemExit(f"no {lacking[0]}; `python tools/fetch_real_data.py bible` gets it")
    counts = prepare(options.data)
    print(f"{options.data / TARGET}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")


if __name__ == "__main__":
    main()
