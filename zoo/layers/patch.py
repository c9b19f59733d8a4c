"""Images as sequences of patches.

Letters: B images, C channels, H W pixels, P side of a patch, N patches, D width.
"""

from einops import rearrange
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Square patches without overlap, each through the same linear map.

    A linear layer over rearranged pixels; the convolution with kernel and stride P that others write is the same map (``conv_weight``).

    Args:
        channels: C.
        height: H, a multiple of the patch size.
        width: W, a multiple of the patch size.
        patch_size: P, in pixels.
        dim: D.
    """

    def __init__(self, *, channels: int, height: int, width: int, patch_size: int, dim: int) -> None:
        super().__init__()
        if patch_size < 1 or height % patch_size or width % patch_size:
            divisors = ", ".join(str(size) for size in range(1, min(height, width) + 1) if height % size == 0 and width % size == 0)
            raise ValueError(f"patch_size={patch_size} does not divide the image, {height} x {width} pixels; divisors of both: {divisors}")
        self.patch_size, self.count = patch_size, (height // patch_size) * (width // patch_size)
        self.proj = nn.Linear(channels * patch_size**2, dim)

    def forward(self, image: Tensor) -> Tensor:
        patches = rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        return self.proj(patches)  # type: ignore[no-any-return]  # B N D
