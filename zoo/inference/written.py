"""How good the texts are that a model writes of a split: BLEU and chrF by sacrebleu, ROUGE by torchmetrics, and how many are right to the letter; and how
good the answers are that it finds in texts: exact match and F1 as SQuAD counts them, by torchmetrics."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.codecs.answer import AnswerCodec, answer_of
from zoo.data.codecs.written import WrittenTokenCodec
from zoo.errors import DataError, ZooError, did_you_mean
from zoo.hub.bundle import load_bundle, open_bundle
from zoo.inference.evaluate import data_given, data_of, override
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.parallel.device import choose_device

BATCH = 64


@dataclass(frozen=True)
class WrittenSplit:
    """What a model wrote, and how it compares.

    Args:
        figures: ``test/bleu``, ``test/chrf``, ``test/rouge_l`` ..., in percent.
        protocol: how each was taken, with sacrebleu's signatures.
        texts: ``{"input", "text", "reference"}`` of each row.
        seconds: of all of it.
        parameters: of the model.
    """

    figures: dict[str, float]
    protocol: dict[str, str]
    texts: list[dict[str, Any]]
    seconds: float
    parameters: int


def write_split(
    path: str | Path,
    *,
    split: str = "test",
    overrides: Sequence[str] = (),
    sampling: Sampling | None = None,
    rows: int | None = None,
    device: str | None = None,
) -> WrittenSplit:
    """Let a model write the target of every row of a split.

    Args:
        path: a bundle or a run's directory.
        split: of the data that it was trained on, or of what the overrides make of it.
        overrides: as ``evaluate_bundle`` takes them.
        sampling: how; 64 tokens of the likeliest, if not given. Tokens are cut at what the model holds.
        rows: the first of the split; None for all.
        device: None takes the run's own.

    Raises:
        ZooError: for a model that writes no target of its own, data that lacks it, or without sacrebleu.
    """
    from zoo.build import build_dataset

    began = time.perf_counter()
    bundle = open_bundle(path)
    data = data_of(bundle)
    config = override(bundle.config, overrides) if data else data_given(bundle.name, overrides)
    chosen = choose_device(device or config.trainer.device)
    loaded = load_bundle(path, chosen)
    predictor = Predictor(model=loaded.model, processor=loaded.processor, bundle=loaded.bundle, device=chosen)
    finds = isinstance(predictor.target, AnswerCodec)
    if not isinstance(predictor.target, WrittenTokenCodec | AnswerCodec):
        raise ZooError(f"{bundle.name} writes no text that its data has a reference for\n  way out: without --write; zoo predict shows what it answers with")
    opened = build_dataset(config).open()
    if split not in opened.splits:
        raise DataError(f"{config.data['name']} has no split {split!r}; {did_you_mean(split, opened.splits)}")
    samples = opened.splits[split]
    name, inputs = predictor.target.name, loaded.model.inputs
    raws = [samples.read(place) for place in range(min(len(samples), rows or len(samples)))]
    if finds:
        raws = [{**raw, name: answer_of(raw[name]["answer"], raw[name]["start"])[0]} for raw in raws]
    scores = None if finds else sacrebleu()
    raws = [raw for raw in raws if isinstance(raw.get(name), str) and all(raw.get(entry) is not None for entry in inputs)]
    if not raws:
        raise DataError(f"the split {split!r} has no row with a text to compare with")
    given = [raw[inputs[0]] if len(inputs) == 1 else {entry: raw[entry] for entry in inputs} for raw in raws]
    order = sorted(range(len(raws)), key=lambda place: len(str(given[place])))  # texts of one length together: less is computed in vain
    answers = predictor.predict([given[place] for place in order], batch_size=BATCH, sampling=None if finds else sampling or Sampling())
    told = {place: answer.get("answer" if finds else "text", "") for place, answer in zip(order, answers, strict=True)}
    texts = [{"input": given[place], "text": told[place], "reference": raws[place][name]} for place in range(len(raws))]
    said, references = [entry["text"] for entry in texts], [entry["reference"] for entry in texts]
    figures, protocol = compare_answers(said, references) if finds else compare(said, references, scores)
    how = sampling or Sampling()
    way = "the best span" if finds else f"{how.beams} beams, length penalty {how.length_penalty:g}" if how.beams > 1 else "the likeliest token"
    protocol["written"] = f"{len(texts)} rows, {way}"
    return WrittenSplit(
        {f"{split}/{key}": value for key, value in figures.items()}, protocol, texts, time.perf_counter() - began, loaded.model.num_parameters()
    )


def compare(texts: Sequence[str], references: Sequence[str], scores: Any | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Figures in percent and how each was taken.

    Args:
        texts: that were written.
        references: one of each.
        scores: the module sacrebleu; None imports it.

    Raises:
        ZooError: without sacrebleu.
    """
    from torchmetrics.functional.text import rouge_score

    scores = scores or sacrebleu()
    bleu, chrf = scores.BLEU(), scores.CHRF()
    figures = {"bleu": bleu.corpus_score(texts, [references]).score, "chrf": chrf.corpus_score(texts, [references]).score}
    rouge = rouge_score(list(texts), list(references), rouge_keys=("rouge1", "rouge2", "rougeL"))
    figures |= {f"rouge_{key[5:].lower()}": 100 * float(rouge[f"{key}_fmeasure"]) for key in ("rouge1", "rouge2", "rougeL")}
    figures["exact"] = 100 * sum(text.strip() == reference.strip() for text, reference in zip(texts, references, strict=True)) / len(texts)
    protocol = {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
        "rouge": "F-measure, mean over rows, torchmetrics",
        "exact": "right to the letter",
    }
    return figures, protocol


def compare_answers(texts: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Exact match and F1 in percent, and how they were taken: both texts in lower case, without punctuation and articles (SQuAD's evaluation script)."""
    from torchmetrics.functional.text import squad

    answers: Any = [{"prediction_text": text, "id": str(place)} for place, text in enumerate(texts)]
    right: Any = [{"answers": {"answer_start": [0], "text": [text]}, "id": str(place)} for place, text in enumerate(references)]
    found = squad(answers, right)
    how = "as SQuAD's evaluation script has it, by torchmetrics"
    return {name: float(found[name]) for name in ("exact_match", "f1")}, {"exact_match": how, "f1": f"mean over rows, {how}"}


def sacrebleu() -> Any:
    """The module.

    Raises:
        ZooError: where it is not installed.
    """
    try:
        import sacrebleu as module
    except ModuleNotFoundError as error:
        raise ZooError("BLEU and chrF are measured by sacrebleu, which is not installed\n  way out: pip install 'zoo-ml[translation]'") from error
    return module
