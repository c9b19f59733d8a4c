"""Text by zoo and by transformers, in one run on the same weights: sentences embedded, tokens trained, tokens generated a second.

    python tools/bench/text.py [--parts embed,train,tiny,small] [--texts FILE.csv] [--threads N] [--clock cpu] [--json FILE]

embed: MiniLM-L6 on real sentences in the order of their file, 32 at a time, vectors of both within 1e-5. train: a GPT-2 of 4 blocks of width 256 on 16 rows
of 128 tokens, fp32, fused AdamW, clipping; transformers' model in a plain loop. tiny (4 blocks, width 128) and small (GPT-2's 124 million): greedy, a prompt
of 64 tokens and 128 new ones, at batch 1 and 8, static key-value caches on both sides; the tokens have to be the same. Weights are random but for MiniLM,
whose speed does not depend on them. Figures are medians of interleaved rounds, ratios zoo / transformers. Exits with 1 where zoo is behind.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--parts", default="embed,train,tiny,small")
parser.add_argument("--texts", type=Path, default=Path(os.environ.get("ZOO_DATA", "data")) / "tweets/movies.csv")
parser.add_argument("--count", type=int, default=512, help="sentences")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of this process, on a machine that others use too")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--json", type=Path)
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
os.environ["OMP_NUM_THREADS"] = str(options.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402 - once the number of threads is set
from torch.nn import functional as F  # noqa: E402

from tools.figures import markdown, use_this_tree  # noqa: E402

use_this_tree()
PROMPT, NEW = 64, 128
TINY = {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 5000, "n_positions": 256}
SMALL = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
TRAINED = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8000, "n_positions": 128}


def clock() -> float:
    return time.perf_counter() if options.clock == "wall" else time.process_time()


def compared(amount: float, zoo: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Amount a second of each, medians of rounds in turn; the first, uncounted one warms up."""
    found: dict[str, list[float]] = {"zoo": [], "theirs": []}
    for number in range(options.rounds + 1):
        for name, run in (("theirs", theirs), ("zoo", zoo)):
            began = clock()
            run()
            if number:
                found[name].append(amount / (clock() - began))
    return statistics.median(found["zoo"]), statistics.median(found["theirs"])


def gpt2(sizes: dict[str, int], folder: Path) -> tuple[Any, Any]:
    """transformers' model with random weights, and zoo's of the same."""
    from transformers import GPT2Config, GPT2LMHeadModel

    import zoo
    from zoo.data.tokenizers.bpe import BpeTokenizer

    torch.manual_seed(0)
    theirs: Any = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    theirs.generation_config.eos_token_id = None
    theirs.save_pretrained(folder)
    tokenizer = BpeTokenizer(vocab_size=300)
    tokenizer.train(["some text"])
    library = tokenizer.library
    library.add_special_tokens(["<|endoftext|>"])
    library.add_tokens([f"<{number}>" for number in range(sizes["vocab_size"] - library.get_vocab_size())])
    library.post_processor = None  # type: ignore[assignment]
    library.save(str(folder / "tokenizer.json"))
    return theirs, zoo.load(str(folder))


def embed(folder: Path) -> list[list[Any]]:
    from transformers import AutoModel, AutoTokenizer

    import zoo
    from zoo.hub.export import export_foreign
    from zoo.hub.resolve import resolve

    with options.texts.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)][: options.count]
    export_foreign(resolve("minilm_l6"), folder / "minilm", "bert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder / "minilm"), AutoModel.from_pretrained(folder / "minilm").eval()
    own = zoo.load("minilm_l6")

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        found = []
        for start in range(0, len(texts), 32):
            given = tokenizer(texts[start : start + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
            tokens, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
            found.append(F.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(found)

    mine = torch.tensor([answer["vector"] for answer in own.predict(texts, batch_size=32)])
    apart = float((mine - theirs()).abs().max())
    speeds = compared(len(texts), lambda: own.predict(texts, batch_size=32), theirs)
    return [[f"sentences embedded, MiniLM-L6 (vectors {apart:.1e} apart)", *speeds]]


def train(folder: Path) -> list[list[Any]]:
    from zoo.specs import Horizon

    theirs, loaded = gpt2(TRAINED, folder)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = torch.randint(0, TRAINED["vocab_size"], (16, 129), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, fused=True)
    steps = 6

    def their_steps() -> None:
        for _ in range(steps):
            logits = theirs(rows[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()

    from zoo.optim.groups import ParameterGroups
    from zoo.optim.optimizers import adamw
    from zoo.optim.schedules import cosine
    from zoo.parallel.mesh import Mesh
    from zoo.settings import GroupSettings, TrainerSettings
    from zoo.structs import Batch, Values
    from zoo.training.step import TrainStep

    model: Any = loaded.model
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    model.train()
    batch = Batch(
        inputs={model.input: Values(rows[:, :-1].contiguous())},
        targets={model.head.target.name: rows[:, 1:].contiguous(), model.head.target.bytes: torch.full((16, 1), 128)},
        ids=torch.arange(16),
        valid=torch.ones(16, dtype=torch.bool),
    )
    own = adamw(groups=ParameterGroups(model, GroupSettings()), lr=1e-4)
    step = TrainStep(
        model=model,
        optimizer=own,
        schedule=cosine(horizon=Horizon(total_steps=10**6, steps_per_epoch=10**6)),
        settings=TrainerSettings(),
        seed=0,
        mesh=Mesh(),
        device=torch.device("cpu"),
    )

    def our_steps() -> None:
        for number in range(steps):
            step([batch], number, {"next_token": 16.0 * 128})
        step.settle()

    return [["tokens trained, GPT-2 of 4 x 256", *compared(steps * 16 * 128, our_steps, their_steps)]]


def generate(name: str, sizes: dict[str, int], folder: Path) -> list[list[Any]]:
    from zoo.inference.generate import continuations
    from zoo.inference.sampling import Sampling

    theirs, loaded = gpt2(sizes, folder)
    codec = loaded.processor.inputs[loaded.model.input]
    found: list[list[Any]] = []
    for batch in (1, 8):
        prompts = torch.randint(0, sizes["vocab_size"], (batch, PROMPT), generator=torch.Generator().manual_seed(2))

        def their_tokens(prompts: torch.Tensor = prompts) -> torch.Tensor:
            with torch.inference_mode():
                return theirs.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False, pad_token_id=0)[:, PROMPT:]

        def our_tokens(prompts: torch.Tensor = prompts) -> torch.Tensor:
            rows = prompts.tolist()
            written = continuations(loaded.model, codec, rows, Sampling(max_tokens=NEW), places=range(len(rows)), device=torch.device("cpu"))
            return torch.tensor([continuation.ids for continuation in written])

        same = float((our_tokens() == their_tokens()).float().mean())
        found.append([f"tokens generated, {name}, batch {batch} ({same:.1%} the same)", *compared(batch * NEW, our_tokens, their_tokens)])
    return found


def main() -> int:
    torch.set_num_threads(options.threads)
    rows: list[list[Any]] = []
    for part in options.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            rows += {"embed": embed, "train": train}[part](place) if part in ("embed", "train") else generate(part, {"tiny": TINY, "small": SMALL}[part], place)
    table = [[what, f"{zoo:,.1f}", f"{theirs:,.1f}", f"{zoo / theirs:.2f}"] for what, zoo, theirs in rows]
    print(f"{options.threads} threads, {options.clock} time, medians of {options.rounds} rounds, a second\n")
    print(markdown(["what", "zoo", "transformers", "ratio"], table))
    if options.json:
        options.json.write_text(json.dumps([{"what": what, "zoo": zoo, "transformers": theirs} for what, zoo, theirs in rows], indent=1) + "\n")
    return int(any(zoo < theirs for _, zoo, theirs in rows))


if __name__ == "__main__":
    sys.exit(main())
