"""Where half precision is too narrow."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """bf16 and fp16 as fp32, anything wider as it is: for sums, softmaxes and losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
