"""Which attention kernel is picked, and that heads have to divide."""

import pytest
import torch

from zoo.layers import attention as module
from zoo.layers.attention import Kernel, MultiHeadAttention, pick_kernel
from zoo.layers.patch import PatchEmbedding
from zoo.layers.position import LearnedPositions, Rotary, SinusoidalPositions


@pytest.mark.parametrize(
    ("device", "dtype", "length", "hardware", "kernel", "computed"),
    [
        ("cuda", torch.bfloat16, 65, True, Kernel.SDPA, torch.bfloat16),
        ("cuda", torch.float32, 65, True, Kernel.SDPA, torch.float32),
        ("cpu", torch.float32, 65, True, Kernel.EXPLICIT, torch.float32),
        ("cpu", torch.float32, 512, True, Kernel.SDPA, torch.float32),
        ("cpu", torch.float64, 65, True, Kernel.EXPLICIT, torch.float64),
        ("cpu", torch.bfloat16, 65, True, Kernel.EXPLICIT, torch.bfloat16),
        ("cpu", torch.bfloat16, 512, True, Kernel.EXPLICIT, torch.bfloat16),
        ("cpu", torch.bfloat16, 4096, True, Kernel.SDPA, torch.bfloat16),
        ("cpu", torch.bfloat16, 65, False, Kernel.EXPLICIT, torch.float32),
        ("cpu", torch.bfloat16, 512, False, Kernel.SDPA, torch.float32),
    ],
)
def test_kernel_of_device_type_and_length(
    device: str, dtype: torch.dtype, length: int, hardware: bool, kernel: Kernel, computed: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: hardware)
    assert pick_kernel(device, dtype, length) == (kernel, computed)


def test_both_bf16_ways_are_within_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 20, 8, dtype=torch.bfloat16) for _ in range(3))
    found = []
    for hardware in (False, True):
        monkeypatch.setattr(module, "cpu_has_bf16", lambda hardware=hardware: hardware)
        found.append(module.attention(query, key, value, causal=True))
    assert found[0].dtype is found[1].dtype is torch.bfloat16
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)


def test_sizes_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"dim=12 is no multiple of heads=5; heads that divide it: 1, 2, 3, 4, 6, 12"):
        MultiHeadAttention(dim=12, heads=5)
    with pytest.raises(ValueError, match=r"patch_size=5 does not divide the image, 28 x 28 pixels; divisors of both: 1, 2, 4, 7, 14, 28"):
        PatchEmbedding(channels=1, height=28, width=28, patch_size=5, dim=8)
    with pytest.raises(ValueError, match="even width"):
        Rotary(dim=3)
    with pytest.raises(ValueError, match="even width"):
        SinusoidalPositions(dim=3)


def test_more_positions_than_learned_are_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 5 positions, where 4 are learned"):
        LearnedPositions(length=4, dim=2)(torch.zeros(1, 5, 2))


def test_patches_are_a_convolutions() -> None:
    torch.manual_seed(0)
    patches, image = PatchEmbedding(channels=3, height=8, width=12, patch_size=4, dim=5), torch.randn(2, 3, 8, 12)
    expected = torch.nn.functional.conv2d(image, patches.proj.weight.view(5, 3, 4, 4), patches.proj.bias, stride=4)
    torch.testing.assert_close(patches(image), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert patches.count == 6
