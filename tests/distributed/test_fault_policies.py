"""Steps that must not be made, on several ranks: all of them decide the same."""

from typing import Any

import pytest
import torch

from tests.processes import run_ranks
from tests.unit.training.test_faults import make


def train(rank: int, world: int, folder: Any, policy: str, precision: str) -> dict[str, Any]:
    """Batches 4 and 6 are bad on the last rank only."""
    options: dict[str, Any] = {"non_finite": policy, "checkpoint_every": 4, "precision": precision, "dropout": 0.0}
    trainer = make(folder, {4, 6} if rank == world - 1 else set(), rank=rank, world=world, accumulate=2 // world, **options)
    trainer.fit()
    return {"model": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}, "faults": trainer.step.faults.state_dict()}


@pytest.mark.parametrize(("policy", "precision"), [("skip", "fp32"), ("rollback", "fp32"), ("skip", "fp16")])
def test_one_bad_rank_is_every_ranks_bad_step(tmp_path: Any, policy: str, precision: str) -> None:
    """Two ranks, of which one meets NaN: both skip or go back, and end where one process does that met it."""
    one = train(0, 1, tmp_path / "one", policy, precision)
    several = run_ranks(train, 2, tmp_path / "two", policy, precision, timeout=180)
    assert {rank["faults"]["skips" if policy == "skip" else "rollbacks"] for rank in several} == {2}
    for rank in several:
        assert {name: value for name, value in rank["faults"].items() if name != "losses"} == {
            name: value for name, value in one["faults"].items() if name != "losses"
        }
        for name, tensor in one["model"].items():
            torch.testing.assert_close(rank["model"][name], tensor, rtol=1e-4 if precision == "fp32" else 5e-2, atol=1e-5 if precision == "fp32" else 5e-3)
