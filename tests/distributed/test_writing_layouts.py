"""Models that write, with one table of embeddings for encoder, decoder and scores: the same numbers in every layout, in double precision.

The texts are synthetic: words and what they are turned round.
"""

import json
from pathlib import Path

import pytest

from tests.layouts import LAYOUTS, difference, traces
from tests.processes import run_ranks

WORDS = ["cat", "dog", "sun", "river", "hill", "tree", "one", "green"]


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    rows = [{"a": f"{first} {second}", "b": f"{second} {first}"[: 4 + place]} for place, first in enumerate(WORDS) for second in WORDS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        "data=table",
        f"data.path={tmp_path / 'rows.jsonl'}",
        "data.text=a",
        "data.target=b",
        "data.target_kind=text",
        "data/tokenizer=byte",
        "data.batch_size=12",
        "data.order=buckets",
        "logger=none",
        "trainer.clip_norm=null",
        "model/encoder=transformer_tiny",
        "model.encoder.dim=24",
        "model.encoder.positions=relative",
        "model/decoder=transformer_tiny",
        "model.decoder.positions=relative",
        "model.decoder.embedding=tied",
        "model.decoder.attention_dropout=0.1",
        "model/head=next_token_tied",
        "model.head.label_smoothing=0.1",
    ]


def test_every_layout_trains_the_same(overrides: list[str]) -> None:
    """R3: of the shared table, every use's gradient arrives on every rank."""
    wanted = traces(0, 1, [overrides], dtype="float64")[0]
    assert not [name for name in wanted.gradients if "output" in name or name == "decoder.embedding.weight"]
    layouts = {name: more for name, (processes, more) in LAYOUTS.items() if processes == 2}
    several = [*overrides, "trainer.accumulate=2"]
    found = run_ranks(traces, 2, [[*several, *more] for more in layouts.values()], 3, "float64", timeout=120)[0]
    for name, one in zip(layouts, found, strict=True):
        assert max(difference(one, wanted).values()) < 1e-12, name


def test_recomputation_changes_no_number(overrides: list[str]) -> None:
    wanted, full = traces(0, 1, [overrides, [*overrides, "trainer.recompute=full"]], dtype="float64")
    assert difference(full, wanted) == {"loss": 0.0, "norm": 0.0, "gradient": 0.0, "weights": 0.0}
