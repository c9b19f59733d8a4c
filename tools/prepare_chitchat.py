"""Write the conversations of the BYU chitchat data set, one JSON object a line: `messages`, `split`.

usage: python tools/prepare_chitchat.py [--data DEST/x]

Two people talk; neighbouring messages of one of them are one turn, line by line. Each conversation is there twice, with either of them as the assistant, so
that every turn is learned once (the first turn of all is the user's, or left out). 5 % validate and 5 % test, by the hash of the conversation's identifier.
`tools/fetch_real_data.py dialogue` calls this.
"""

import argparse
import json
import os
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

SOURCE = "py_chitchat_dataset/chitchat_dataset/dataset.json"
TARGET = "chitchat/conversations.jsonl"


def split_of(identifier: str) -> str:
    place = int.from_bytes(blake2b(identifier.encode(), digest_size=8).digest()) / 2**64
    return "test" if place < 0.05 else "validation" if place < 0.1 else "train"


def turns(messages: list[list[dict[str, str]]]) -> list[tuple[str, str]]:
    """Speaker and text of each turn."""
    found: list[tuple[str, str]] = []
    for group in messages:
        for message in group:
            text = " ".join(message["text"].split())
            if not text:
                continue
            if found and found[-1][0] == message["sender"]:
                found[-1] = (message["sender"], f"{found[-1][1]}\n{text}")
            else:
                found.append((message["sender"], text))
    return found


def views(spoken: list[tuple[str, str]]) -> list[list[dict[str, str]]]:
    """The conversation with either speaker as the assistant, from a user's turn on; those without an answer are left out."""
    found = []
    for skip in (0, 1):
        own = [{"role": ("user", "assistant")[place % 2], "content": text} for place, (_, text) in enumerate(spoken[skip:])]
        if len(own) > 1:
            found.append(own)
    return found


def prepare(data: Path) -> dict[str, int]:
    """How many conversations of each split were written, both views counted."""
    conversations: dict[str, dict[str, Any]] = json.loads((data / SOURCE).read_text(encoding="utf-8"))
    target = data / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "validation": 0, "test": 0}
    with target.open("w", encoding="utf-8") as out:
        for identifier, entry in sorted(conversations.items()):
            spoken = turns(entry["messages"])
            if len({sender for sender, _ in spoken}) != 2:
                continue
            for messages in views(spoken):
                split = split_of(identifier)
                out.write(json.dumps({"messages": messages, "split": split}, ensure_ascii=False) + "\n")
                counts[split] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    options = parser.parse_args()
    print(", ".join(f"{name} {count:,}" for name, count in prepare(options.data).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
