"""Degrees, devices and collectives."""

import pytest

from zoo.errors import ConfigError
from zoo.plan.communication import Axis, Collective, Transfer, When, bandwidth, transfers
from zoo.plan.devices import A100, DEVICES, GIGA, H100, find_device
from zoo.plan.layout import Dimensions, Layout, Strategy, check_layout, legal_layouts, legal_tensor

LLAMA = Dimensions(heads=(8, 32), widths=(1024, 4096, 14336), positions=8192, blocks=32)


@pytest.mark.parametrize(
    ("layout", "dimensions", "path", "told"),
    [
        (Layout(strategy=Strategy.FSDP, world=16, tensor=16), LLAMA, "--tp", ["8 heads", "--tp 1|2|4|8"]),
        (Layout(strategy=Strategy.FSDP, world=12, tensor=8), LLAMA, "--tp", ["the 12 devices", "--tp 1|2|4"]),
        (Layout(strategy=Strategy.DDP, world=6, tensor=3), Dimensions(heads=(3,), widths=(192,), positions=65, blocks=4), "--tp", ["65 positions", "--tp 1"]),
        (Layout(strategy=Strategy.DDP, world=4, tensor=2), Dimensions(), "--tp", ["names none", "--tp 1"]),
        (Layout(strategy=Strategy.HSDP, world=16, replicate=3), LLAMA, "--replicate", ["--replicate 2|4|8", "--strategy fsdp"]),
        (Layout(strategy=Strategy.HSDP, world=2, replicate=2), LLAMA, "--replicate", ["a larger --world"]),
        (Layout(strategy=Strategy.FSDP, world=16, replicate=2), LLAMA, "--replicate", ["belongs to hsdp"]),
        (Layout(strategy=Strategy.FSDP, world=0), LLAMA, "--world", ["1 or more"]),
    ],
)
def test_illegal_degrees_are_refused_with_the_legal_ones(layout: Layout, dimensions: Dimensions, path: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_layout(layout, dimensions)
    assert caught.value.path == path
    for words in told:
        assert words in str(caught.value)


@pytest.mark.parametrize("world", [1, 2, 6, 8, 64, 96])
def test_every_legal_layout_passes_and_uses_every_device(world: int) -> None:
    layouts = legal_layouts(world, LLAMA)
    assert len(layouts) == len(set(layouts)) > 0
    for layout in layouts:
        check_layout(layout, LLAMA)
        assert layout.tensor * layout.data == world
        assert layout.tensor <= 8
        if layout.strategy is not Strategy.DDP:
            assert layout.replicate * layout.shard * layout.tensor == world
    legal = set(legal_tensor(world, LLAMA))
    for degree in {*range(1, world + 1)} - legal:
        with pytest.raises(ConfigError):
            check_layout(Layout(strategy=Strategy.DDP, world=world, tensor=degree), LLAMA)


def test_devices_have_sources_and_near_names() -> None:
    for name, device in DEVICES.items():
        assert find_device(name.upper().replace("_", "-")) is device
        told = {field.strip() for names in device.sources for field in names.split(",")}
        assert told == {"peak", "products", "attention", "memory", "bandwidth", "link", "network"}
    with pytest.raises(ConfigError, match=r"did you mean 'h200'\?[\s\S]*h100, h100_500w, h200, a100, cpu"):
        find_device("h220")


def test_this_cpu_is_measured() -> None:
    cpu = find_device("cpu")
    assert 1 * GIGA < cpu.peak["fp32"] < 1e14
    assert 1e8 < cpu.bandwidth < 1e13
    assert cpu.memory > 2**28


def test_groups_within_a_node_use_its_link_and_others_their_ports() -> None:
    assert bandwidth(H100, Layout(strategy=Strategy.FSDP, world=8), Axis.SHARD) == H100.link
    assert bandwidth(H100, Layout(strategy=Strategy.FSDP, world=16), Axis.SHARD) == 8 * H100.network  # eight ports a node feed one ring each
    both = Layout(strategy=Strategy.FSDP, world=256, tensor=8)
    assert bandwidth(H100, both, Axis.TENSOR) == H100.link
    assert bandwidth(H100, both, Axis.SHARD) == H100.network  # one member a node
    groups = Layout(strategy=Strategy.HSDP, world=32, replicate=4)
    assert (bandwidth(A100, groups, Axis.SHARD), bandwidth(A100, groups, Axis.REPLICATE)) == (A100.link, A100.network)


def moved(layout: Layout, **changes: object) -> list[Transfer]:
    options = {"parameters": 1000, "trained": 1000, "blocks": 4, "micro_batches": 1, "gathered": 2, "block_input": 64.0, "element": 2}
    flags = {"recomputed": False, "gathers_again": False, "float8": False}
    return transfers(layout, **(options | flags | changes))  # type: ignore[arg-type]


def total(found: list[Transfer], axis: Axis) -> float:
    return sum(transfer.bytes for transfer in found if transfer.axis is axis)


def test_bytes_of_data_parallelism() -> None:
    """DDP sends 2 (n - 1) / n gradients, ZeRO-3 three times the parameters (Rajbhandari et al., 2020, section 7, https://arxiv.org/abs/1910.02054)."""
    assert total(moved(Layout(strategy=Strategy.DDP, world=4)), Axis.SHARD) == 2 * 3 / 4 * 4000
    sharded = moved(Layout(strategy=Strategy.FSDP, world=4), gathered=4)
    assert total(sharded, Axis.SHARD) == 3 * 3 / 4 * 4000
    assert [(transfer.collective, transfer.calls) for transfer in sharded] == [
        (Collective.ALL_GATHER, 5),
        (Collective.ALL_GATHER, 5),
        (Collective.REDUCE_SCATTER, 5),
    ]
    groups = moved(Layout(strategy=Strategy.HSDP, world=8, replicate=2), gathered=4)
    assert total(groups, Axis.SHARD) == total(sharded, Axis.SHARD)
    assert total(groups, Axis.REPLICATE) == 2 * 1 / 2 * 4000 / 4
    # Accumulated over three: parameters are gathered for each, gradients scattered once.
    assert total(moved(Layout(strategy=Strategy.FSDP, world=4), gathered=4, micro_batches=3), Axis.SHARD) == (3 * 2 + 1) * 3 / 4 * 4000
    assert moved(Layout(strategy=Strategy.DDP, world=1)) == []


def test_bytes_of_tensor_parallelism() -> None:
    """Two gathers and two scatters a block and pass (Korthikanti et al., 2022, section 4.2.2, https://arxiv.org/abs/2205.05198)."""
    layout = Layout(strategy=Strategy.FSDP, world=4, tensor=4)
    plain = moved(layout)
    assert total(plain, Axis.TENSOR) == 2 * 4 * (2 + 2) * 64 * 3 / 4
    full = moved(layout, recomputed=True, gathers_again=True)
    assert total(full, Axis.TENSOR) == 4 * (8 + 3) * 64 * 3 / 4
    cast = moved(layout, float8=True)
    assert total(cast, Axis.TENSOR) == 2 * 4 * (1 + 2) * 64 * 3 / 4  # what is gathered is a byte an element
    assert {transfer.when for transfer in plain} == {When.FORWARD, When.BACKWARD}
