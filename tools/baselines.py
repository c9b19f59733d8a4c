"""The simple answers that an experiment's figures stand beside, on exactly the same samples and splits.

    python tools/baselines.py tweet_sentiment sample_sounds ml100k_next breast_cancer digits sentiment_bag,data=movies

Chance and the majority class need no model; logistic regression (scikit-learn) sees standardised features: mean log-mel of a clip, the
counts of a text's tokens, a table's numbers; beside it, for texts, one sees TF-IDF of words and pairs of words; popularity ranks items by how
often they occur in training, seen items left out;
language models stand beside compressors, which saw the training texts; tags beside the most frequent one of each word.
"""

import argparse
import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.build import build_dataset
from zoo.compose import compose
from zoo.config import RunConfig
from zoo.data.base import OpenData
from zoo.data.codecs.tag import tags_of, words_of
from zoo.data.datasets.corpus import CorpusSplit
from zoo.data.loader import Loader
from zoo.data.tokens import Tokens
from zoo.heads.ranking_metrics import RankingMetrics
from zoo.specs import ClassTarget, ItemTarget, TagTarget, TextInput, TokenTarget
from zoo.structs import Batch

OVERRIDES = {
    "digits": [],
    "breast_cancer": ["data=breast_cancer", "model/encoder=table"],
}


def batches(data: OpenData, config: RunConfig, split: str) -> list[Batch]:
    loader = Loader(data=data, split=split, settings=config.loader, augment={}, seed=0, training=False, batch_size=256)
    return [part for parts in loader for part in parts]


def features(batch: Batch) -> Tensor:
    """B D: one vector a sample."""
    (values,) = batch.inputs.values()
    if isinstance(values.values, dict):
        return torch.cat([tensor.float().flatten(1) for tensor in values.values.values()], dim=1)
    if values.mask is None:
        return values.values.float().flatten(1)
    if values.values.dtype == torch.int64:  # tokens: how often each occurs
        counts = torch.zeros(len(values.values), int(values.values.max()) + 1)
        return counts.scatter_add_(1, values.values, values.mask.float())
    mask = values.mask[:, None].float()  # B 1 T
    mean = (values.values * mask).sum(-1) / mask.sum(-1)
    spread = (((values.values - mean[..., None]) * mask).square().sum(-1) / mask.sum(-1)).sqrt()
    return torch.cat([mean, spread], dim=1)


def classification(data: OpenData, config: RunConfig, target: ClassTarget) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("train", "test"):
        found = batches(data, config, split)
        width = max(features(batch).shape[1] for batch in found)
        rows = [torch.nn.functional.pad(features(batch), (0, width - features(batch).shape[1]))[batch.valid] for batch in found]
        tables[split] = torch.cat(rows).numpy(), torch.cat([batch.targets[target.name][batch.valid] for batch in found]).numpy()
    width = max(table[0].shape[1] for table in tables.values())
    train, test = ((np.pad(x, ((0, 0), (0, width - x.shape[1]))), y) for x, y in (tables["train"], tables["test"]))
    majority = int(np.bincount(train[1]).argmax())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1)).fit(*train)
    guess = model.predict(test[0])
    (codec,) = data.inputs.values()
    return {
        "chance": 1 / target.num_classes,
        "majority accuracy": accuracy_score(test[1], np.full_like(test[1], majority)),
        "majority f1": f1_score(test[1], np.full_like(test[1], majority), average="macro", zero_division=0),
        "logistic regression accuracy": accuracy_score(test[1], guess),
        "logistic regression f1": f1_score(test[1], guess, average="macro", zero_division=0),
    } | (tfidf(data, config, target, codec.spec.name) if isinstance(codec.spec, TextInput) else {})


def tfidf(data: OpenData, config: RunConfig, target: ClassTarget, text: str) -> dict[str, float]:
    """Logistic regression on TF-IDF of the texts' words and pairs of words, from two occurrences on."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    texts: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        found = batches(data, config, split)
        rows = torch.cat([batch.ids[batch.valid] for batch in found])
        texts[split] = [str(data.splits[split].read(row)[text]) for row in rows.tolist()]
        labels[split] = torch.cat([batch.targets[target.name][batch.valid] for batch in found]).numpy()
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    guess = make_pipeline(words, LogisticRegression(max_iter=2000, C=10.0)).fit(texts["train"], labels["train"]).predict(texts["test"])
    return {
        "TF-IDF logistic regression accuracy": accuracy_score(labels["test"], guess),
        "TF-IDF logistic regression f1": f1_score(labels["test"], guess, average="macro", zero_division=0),
    }


def popularity(data: OpenData, config: RunConfig, target: ItemTarget) -> dict[str, float]:
    counts = torch.zeros(target.num_items + 1)
    for batch in batches(data, config, "train"):
        counts += torch.bincount(batch.targets[target.name].flatten(), minlength=target.num_items + 1)
    metrics = RankingMetrics(target, (5, 10, 20))
    for batch in batches(data, config, "test"):
        (values,) = batch.inputs.values()
        assert values.mask is not None
        last = values.mask.shape[1] - 1 - values.mask.flip(1).int().argmax(1)
        metrics.update({"scores": counts.expand(batch.size, -1), "last": last}, batch.targets, batch.valid)
    return {f"popularity {name}": value for name, value in metrics.compute().items()}


def tags(data: OpenData, target: TagTarget) -> dict[str, float]:
    """The label that each word had most often in training; of words that it did not show, the most frequent label of all. Spans by seqeval."""
    from collections import Counter, defaultdict

    from seqeval.metrics import f1_score

    seen: dict[str, Counter[str]] = defaultdict(Counter)
    known, right, words = set(target.labels), 0, 0
    found: dict[str, list[list[str]]] = {"there": [], "told": []}
    for name in ("train", "test"):
        often = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        usual = sum(seen.values(), Counter()).most_common(1)[0][0] if seen else ""
        for row in range(len(data.splits[name])):
            raw = data.splits[name].read(row)[target.name]
            own, labels = words_of(raw["words"])[0], tags_of(raw["tags"])
            if name == "train":
                for word, label in zip(own, labels, strict=True):
                    seen[word][label] += 1
            elif known >= set(labels):  # as the model's figures leave such rows out
                told = [often.get(word, usual) for word in own]
                right, words = right + sum(one == two for one, two in zip(labels, told, strict=True)), words + len(own)
                found["there"].append(labels)
                found["told"].append(told)
    spans = {"most frequent label f1": float(f1_score(found["there"], found["told"]))} if target.bio else {}
    return {"most frequent label accuracy": right / words} | spans


def language(data: OpenData, target: TokenTarget) -> dict[str, float]:
    """Bits per byte of the test texts, given the training texts: byte n-grams as compressors find them, and single tokens as often as in training."""
    import bz2
    import lzma
    from math import log2

    tokenizer: Any = data.inputs["text"].tokenizer  # type: ignore[attr-defined]

    def text_of(raw: Any) -> str:
        return str(tokenizer.decode(raw.following.tolist()) if isinstance(raw, Tokens) else raw)

    texts = {}
    for name in ("train", "test"):
        raws = (data.splits[name].read(row)["text"] for row in range(len(data.splits[name])))
        texts[name] = ("" if isinstance(data.splits[name], CorpusSplit) else "\n").join(map(text_of, raws)).encode()
    size = len(texts["test"])
    found = {}
    for name, pack in (("xz", lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)), ("bzip2", bz2.compress)):
        found[f"{name} bits_per_byte"] = (len(pack(texts["train"] + texts["test"])) - len(pack(texts["train"]))) * 8 / size
    counts, bits, told = torch.ones(target.vocab_size, dtype=torch.float64), 0.0, 0
    for name in ("train", "test"):
        for row in range(len(data.splits[name])):
            sample = data.targets[target.name].encode(data.splits[name].read(row)[target.name])
            tokens = sample["values"][sample["values"] != target.ignore_index]
            if name == "train":
                counts += torch.bincount(tokens, minlength=target.vocab_size)
            else:
                bits -= float((counts / counts.sum())[tokens].log2().sum())
                told += int(sample[target.bytes])
    return found | {"unigram bits_per_byte": bits / told, "uniform bits_per_token": log2(target.vocab_size)}


def main(names: list[str]) -> None:
    for name in names:
        experiment, *changes = name.split(",")
        overrides = [*OVERRIDES.get(experiment, [f"experiment={experiment}"]), *changes]
        folds = compose(overrides).data.get("folds")
        print(name)
        of_folds = [measure([*overrides, f"data.fold={fold}"]) for fold in range(folds)] if folds else [measure(overrides)]
        for figure in of_folds[0]:
            values = [found[figure] for found in of_folds]
            each = f"  (folds: {', '.join(f'{value:.4f}' for value in values)})" if folds else ""
            print(f"  {figure:36} {sum(values) / len(values):.4f}{each}")


def measure(overrides: list[str]) -> dict[str, float]:
    config = compose(overrides)
    data = build_dataset(config).open()
    (target,) = data.spec.targets
    if isinstance(target, TagTarget):
        return tags(data, target)
    if isinstance(target, TokenTarget):
        return language(data, target)
    return classification(data, config, target) if isinstance(target, ClassTarget) else popularity(data, config, target)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="experiments, or digits, breast_cancer; with overrides after commas: sentiment_bag,data=movies")
    sys.exit(main(parser.parse_args().names))
