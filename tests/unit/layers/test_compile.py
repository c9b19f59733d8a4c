"""``torch.compile`` with keyed dropout: one graph, no recompilation from step to step, the same masks."""

import pytest
import torch
from torch import Tensor, nn

from zoo.layers.dropout import name_randomness
from zoo.layers.transformer import TransformerBlock
from zoo.random import SampleRandom, sample_randomness


def compare(backend: str) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(dim=8, heads=2, dropout=0.3, attention_dropout=0.2, drop_path=0.2)
    name_randomness(nn.ModuleDict({"block": block}))
    x, mask = torch.randn(4, 9, 8), torch.arange(9) < torch.tensor([9, 4, 1, 6])[:, None]
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    torch._dynamo.utils.counters.clear()
    for step in range(3):
        with sample_randomness(SampleRandom(0, step, torch.arange(4) + step)):
            eager: Tensor = block(x, mask)
            torch.testing.assert_close(compiled(x, mask), eager, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_is_one_graph_for_every_step() -> None:
    compare("eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiles_to_the_same_numbers() -> None:
    """Inductor folds the constants of the random words into index arithmetic that overflows, unless they are hidden from it."""
    compare("inductor")
