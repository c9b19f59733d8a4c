"""Rows that belong together come in one batch of training, in every epoch anew, and nothing else about an epoch changes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from zoo.data.datasets.table import Table, TargetKind
from zoo.data.loader import Loader
from zoo.data.order import Planner, side_by_side
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.errors import ConfigError
from zoo.settings import BatchPacking, LoaderSettings, Order

GROUPS, SIZE = 30, 4


def test_side_by_side() -> None:
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    assert side_by_side(order, torch.tensor([7, 9, 9, 9, 7, 9])).tolist() == [5, 3, 1, 2, 0, 4]
    assert side_by_side(order, torch.arange(6)).tolist() == order.tolist()


def test_groups_share_a_batch_and_groups_are_shuffled() -> None:
    together = torch.arange(GROUPS * SIZE) % GROUPS
    planner = Planner(GROUPS * SIZE, order=Order.SHUFFLE, seed=0, batch_size=3 * SIZE, together=together)
    epochs = [planner.plan(epoch) for epoch in range(2)]
    for plan in epochs:
        assert sorted(plan.order.tolist()) == list(range(GROUPS * SIZE))
        assert all(len(together[plan.rows(batch)].unique()) == 3 for batch in range(len(plan)))
    assert epochs[0].order.tolist() != epochs[1].order.tolist()
    mates = [{frozenset(together[plan.rows(batch)].tolist()) for batch in range(len(plan))} for plan in epochs]
    assert mates[0] != mates[1]


def table(tmp_path: Path) -> Table:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {row}", "thing": row // 2, "family": row % 5} for row in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Table(path=str(path), text="text", target="thing", target_kind=TargetKind.PAIR, together="family", tokenizer=ByteTokenizer())


def loader(data: Table, *, training: bool = True, **settings: object) -> Loader:
    given = LoaderSettings(batch_size=8, **settings)  # type: ignore[arg-type]
    return Loader(data=data.open(), split="train", settings=given, augment={}, seed=3, training=training, batch_size=8)


def test_the_column_of_a_table_binds_its_rows(tmp_path: Path) -> None:
    data = table(tmp_path)
    split = data.open().splits["train"]
    family = [int(str(split.read(row)["text"]).split()[1]) % 5 for row in range(len(split))]
    found = loader(data)
    met = [[family[row] for row in batch[0].ids.tolist()] for batch in found]
    order = [number for batch in met for number in batch]
    changes = sum(one != other for one, other in pairwise(order))
    assert changes == len(set(order)) - 1  # each family in one run
    plain = loader(data, training=False)
    assert [row for batch in plain for row in batch[0].ids.tolist()] == list(range(len(split)))


def test_lengths_cannot_deal_them_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        loader(table(tmp_path), order=Order.BUCKETS)
    with pytest.raises(ConfigError, match="exclude each other"):
        loader(table(tmp_path), batch_tokens=64, packing=BatchPacking.FLAT)
