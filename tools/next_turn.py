r"""Which of twenty turns comes next in a conversation? The one that a model finds likeliest, beside what needs no model.

    python tools/next_turn.py runs/chitchat/TIME [--conversations chitchat/conversations.jsonl] [--split test] [--questions 500] [--candidates 20]

A question is a conversation of the split up to a turn of the assistant, drawn by the hash of its place; the candidates are that turn and others of the split,
drawn likewise, none of them the same text. A model's score of a candidate is how much likelier what was said makes it: the log probability of its tokens and
of what closes it, less that after a turn that says nothing (`...`); --plain takes the mean log probability alone, which short and common turns win. Beside
it: the most words shared with what was said before (BM25-like, words weighted by how rare they are in the split), and chance.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, use_this_tree

use_this_tree()
K = (1, 2, 5)
WORD = re.compile(r"\w+")


def number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def questions(conversations: list[list[dict[str, str]]], count: int, candidates: int) -> list[tuple[list[dict[str, str]], list[str]]]:
    """What was said before, and the candidates, the right one first."""
    turns = [(place, turn) for place, talk in enumerate(conversations) for turn, message in enumerate(talk) if message["role"] == "assistant"]
    texts = [conversations[place][turn]["content"] for place, turn in turns]
    found = []
    for place, turn in sorted(turns, key=lambda entry: number(f"asked {entry}"))[:count]:
        right = conversations[place][turn]["content"]
        others: list[str] = []
        draw = 0
        while len(others) < candidates - 1:
            other = texts[number(f"{place} {turn} {draw}") % len(texts)]
            draw += 1
            if other.strip().lower() != right.strip().lower() and other not in others:
                others.append(other)
        found.append((conversations[place][:turn], [right, *others]))
    return found


def rank_of(scores: list[float]) -> float:
    """Of the first; ties take the middle."""
    return 1 + sum(score > scores[0] for score in scores[1:]) + sum(score == scores[0] for score in scores[1:]) / 2


def mean_reciprocal(ranks: Sequence[float]) -> float:
    return sum(1 / rank for rank in ranks) / len(ranks)


def shared_words(before: list[dict[str, str]], candidates: list[str], rarity: dict[str, float]) -> list[float]:
    said = {word for message in before for word in WORD.findall(message["content"].lower())}
    return [sum(rarity.get(word, 0.0) for word in said & set(WORD.findall(text.lower()))) / (1 + len(WORD.findall(text))) ** 0.5 for text in candidates]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--conversations", type=Path, default=None)
    parser.add_argument("--split", default="test")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    import os

    import torch

    import zoo
    from zoo.data.chat import Message
    from zoo.structs import Values

    path = options.conversations or Path(os.environ.get("ZOO_DATA", "data")) / "chitchat/conversations.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    talks = [row["messages"] for row in rows if row["split"] == options.split]
    counts = Counter(word for talk in talks for message in talk for word in set(WORD.findall(message["content"].lower())))
    total = sum(len(talk) for talk in talks)
    rarity = {word: math.log(total / count) for word, count in counts.items()}
    asked = questions(talks, options.questions, options.candidates)
    predictor = zoo.load(options.model)
    codec, model = predictor._dialogue, predictor.model
    name = codec.name

    @torch.inference_mode()
    def said(before: list[dict[str, str]], candidates: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probability of each candidate after these turns, and its tokens."""
        encoded = []
        for text in candidates:
            tokens = codec.tokens([*(Message(turn["role"], turn["content"]) for turn in before), Message("assistant", text)])[: codec.max_length]
            encoded.append(([token for token, _ in tokens], [turn == len(before) for _, turn in tokens]))
        longest = max(len(ids) for ids, _ in encoded)
        ids = torch.tensor([row + [codec.pad] * (longest - len(row)) for row, _ in encoded])
        own = torch.tensor([row + [False] * (longest - len(row)) for _, row in encoded])[:, 1:]
        mask = torch.arange(longest) < torch.tensor([len(row) for row, _ in encoded])[:, None]
        logs = model({name: Values(ids, mask)})["logits"][:, :-1].log_softmax(dim=-1)
        return (logs.gather(2, ids[:, 1:, None])[..., 0] * own).sum(dim=1), own.sum(dim=1)

    ranks: dict[str, list[float]] = {"model": [], "shared words": []}
    for before, candidates in asked:
        kept = before[:]
        while len(kept) > 1 and len(codec.encode([*kept, {"role": "assistant", "content": "a"}])["values"]) > codec.max_length // 2:
            kept = kept[2:]
        scores, lengths = said(kept, candidates)
        if options.plain:
            scores = scores / lengths
        else:
            scores = scores - said([{"role": "user", "content": "..."}], candidates)[0]
        ranks["model"].append(rank_of(scores.tolist()))
        ranks["shared words"].append(rank_of(shared_words(before, candidates, rarity)))
    print(f"{options.model}: {len(asked)} questions of the split {options.split}, {options.candidates} candidates each\n")
    table = [[who, *(f"{sum(rank <= k for rank in found) / len(found):.3f}" for k in K), f"{mean_reciprocal(found):.3f}"] for who, found in ranks.items()]
    places = list(range(1, options.candidates + 1))
    chance = [*(f"{k / options.candidates:.3f}" for k in K), f"{mean_reciprocal(places):.3f}"]
    print(markdown(["scored by", *(f"recall@{k}" for k in K), "MRR"], [*table, ["chance", *chance]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
