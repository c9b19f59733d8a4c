"""Write passages of the World English Bible (public domain), one JSON object a line: `book`, `chapter`, `text`; and the whole text, a line for each verse
and an empty one between chapters (bible/web.txt).

usage: python tools/prepare_bible.py [--data DEST/x] [--bytes 600]

The rule: whole verses of one chapter are joined by a space while the passage stays within --bytes of UTF-8; footnotes, cross references and the
titles of psalms are left out. `tools/fetch_real_data.py bible` calls this. It reads the SWORD module with pysword (`pip install pysword`).
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SOURCE = "sword-text-web/usr/share/sword"
TARGET = "bible/passages.jsonl"
WHOLE = "bible/web.txt"
ASIDE = re.compile(r"<(note|title)\b[^>]*>.*?</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
BEFORE_MARK = re.compile(r"\s+(?=[,.;:!?’”)])")


def plain(verse: str) -> str:
    """A verse of OSIS markup as text."""
    return BEFORE_MARK.sub("", " ".join(TAG.sub("", ASIDE.sub(" ", verse)).split()))


def passages(verses: Sequence[str], size: int) -> Iterator[str]:
    """Neighbouring verses together, as many as fit into ``size`` bytes; a longer verse stands alone."""
    found = ""
    for verse in verses:
        joined = f"{found} {verse}".strip()
        if found and len(joined.encode()) > size:
            yield found
            found = verse
        else:
            found = joined
    if found:
        yield found


def prepare(data: Path, size: int) -> tuple[int, int]:
    """How many passages of how many bytes were written to ``data / TARGET``.

    Raises:
        ModuleNotFoundError: without pysword.
    """
    from pysword.modules import SwordModules

    modules = SwordModules(str(data / SOURCE))
    (name,) = modules.parse_modules()
    bible = modules.get_bible_from_module(name)
    target = data / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    count = total = 0
    with target.open("w", encoding="utf-8") as file, (data / WHOLE).open("w", encoding="utf-8") as whole:
        for books in bible.get_structure().get_books().values():
            for book in books:
                for chapter, length in enumerate(book.chapter_lengths, 1):
                    markup = bible.get_iter(books=[book.name], chapters=[chapter], verses=list(range(1, length + 1)), clean=False)
                    verses = [found for verse in markup if (found := plain(verse))]
                    whole.write("".join(f"{verse}\n" for verse in verses) + "\n")
                    for text in passages(verses, size):
                        file.write(json.dumps({"book": book.name, "chapter": f"{book.name} {chapter}", "text": text}, ensure_ascii=False) + "\n")
                        count, total = count + 1, total + len(text.encode())
    return count, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    parser.add_argument("--bytes", type=int, default=600)
    options = parser.parse_args()
    if not (options.data / SOURCE).is_dir():
        raise SystemExit(f"no {options.data / SOURCE}; `python tools/fetch_real_data.py bible` gets it")
    count, total = prepare(options.data, options.bytes)
    print(f"{options.data / TARGET}: {count:,} passages, {total:,} bytes")


if __name__ == "__main__":
    main()
