"""timm's networks on the meta device, as a converter judges them: what they compute, not what their tensors are called."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.errors import CheckpointError

LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only", "device", "dtype")
"""Arguments of timm.create_model that fetch, open files or build something else than the network: no business of a checkpoint's."""


def built(model: str, arguments: Mapping[str, Any], *, classes: int, where: str) -> nn.Module:
    """timm's network on the meta device: names, shapes and arithmetic, and not one number.

    Raises:
        CheckpointError: for an architecture or an argument that timm does not have.
    """
    import timm
    import torch

    if not timm.is_model(model):
        raise CheckpointError(f"{where}: {model!r} is no architecture of timm {timm.__version__}, so that nothing can be built of it\n  way out: another timm")
    if strange := [name for name in LOADING if name in arguments]:
        raise CheckpointError(f"{where}: config.json: model_args.{strange[0]} is no part of an architecture; refused\n  way out: take it out of model_args")
    try:
        with torch.device("meta"):
            network: nn.Module = timm.create_model(model, pretrained=False, num_classes=classes, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, AttributeError) as error:  # how timm's constructors refuse an argument
        raise CheckpointError(f"{where}: timm cannot build {model} with {dict(arguments)}: {type(error).__name__}: {error}") from error
    return network


def pooling_of(network: nn.Module) -> str | None:
    """How a network of timm's pools; None where it does not say."""
    for owner in (network, getattr(network, "head", None)):
        pool = getattr(owner, "global_pool", None)
        if isinstance(kind := getattr(pool, "pool_type", pool), str):
            return kind
    return None


def classifier_of(network: nn.Module) -> str | None:
    """Name of the layer that classifies; None where it is not one."""
    last = network.get_classifier()  # type: ignore[operator]
    return next((name for name, module in network.named_modules() if module is last), None)


def arithmetic(network: nn.Module) -> dict[str, Any]:
    """What an evaluation's numbers depend on beside the weights: the kinds of layers and their plain settings."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        if "Drop" in type(module).__name__ or isinstance(module, nn.Identity):
            continue
        settings = {key: value for key, value in vars(module).items() if not key.startswith("_") and "drop" not in key and _plain(value)}
        found[name] = (type(module), settings, [tuple(parameter.shape) for parameter in module.parameters(recurse=False)])
    return found


def why_no_plain_vit(network: Any) -> str | None:
    """What a network of timm's has that zoo's ViT has not; None where it has nothing. Its names and shapes alone do not tell: the arithmetic counts."""
    from timm.layers import PatchEmbed
    from timm.models import VisionTransformer

    if type(network) is not VisionTransformer:
        return f"it is a {type(network).__name__}"
    patches, norms = network.patch_embed, [network.norm, network.fc_norm]
    last = [norm for norm in norms if not isinstance(norm, nn.Identity)]
    prefixed = network.num_prefix_tokens > 0
    checks = {
        "patches of its own kind": type(patches) is not PatchEmbed or patches.proj.bias is None or not isinstance(patches.norm, nn.Identity),
        "patches that are not square": patches.patch_size[0] != patches.patch_size[-1],
        "images of any size": network.dynamic_img_size or getattr(patches, "dynamic_img_pad", False),
        "no trained positions": network.pos_embed is None,
        "registers": network.num_reg_tokens > 0,
        "a token without a position": network.no_embed_class and prefixed,
        "a norm before the blocks": not isinstance(network.norm_pre, nn.Identity),
        "patches left out": not isinstance(network.patch_drop, nn.Identity),
        f"the pooling {network.global_pool!r}": network.attn_pool is not None or network.global_pool not in ("token", "avg"),
        "pooling over its token as well": network.pool_include_prefix and prefixed and network.global_pool != "token",
        "not one last norm": len(last) != 1,
    }
    if wrong := [what for what, found in checks.items() if found]:
        return wrong[0]
    of_blocks = [why for block in network.blocks if (why := why_no_plain_block(block)) is not None]
    if of_blocks:
        return of_blocks[0]
    norms = [*last, *(norm for block in network.blocks for norm in (block.norm1, block.norm2))]
    return None if len({_norm(norm) for norm in norms}) == 1 and _norm(norms[0])[0] else "norms that are not layer norms of one eps"


def why_no_plain_block(block: Any) -> str | None:
    """What a block of timm's has that zoo's has not."""
    from timm.layers import Attention, LayerScale, Mlp
    from timm.models.vision_transformer import Block

    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        kinds = [type(part).__name__ for part in (block, getattr(block, "attn", None), getattr(block, "mlp", None)) if part is not None]
        return f"blocks of its own kind ({', '.join(kinds)})"
    attention, mlp = block.attn, block.mlp
    if any(not isinstance(part, nn.Identity) for part in (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)) or attention.gate is not None:
        return "norms or gates within its blocks"
    if any(layer.bias is None for layer in (attention.proj, mlp.fc1, mlp.fc2)) or attention.num_heads * attention.head_dim != attention.proj.out_features:
        return "projections without a bias, or of another width"
    if type(mlp.act) is not nn.GELU or mlp.act.approximate != "none":
        return f"the activation {mlp.act}"
    return None if {type(block.ls1), type(block.ls2)} in ({nn.Identity}, {LayerScale}) else "scales of its own kind"


def _norm(norm: nn.Module) -> tuple[bool, float]:
    """Whether it is a layer norm with weight and bias, and its eps."""
    from timm.layers import LayerNorm

    plain = type(norm) in (nn.LayerNorm, LayerNorm) and norm.weight is not None and norm.bias is not None
    return plain, float(norm.eps) if plain else 0.0  # type: ignore[arg-type]


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None) or (isinstance(value, tuple) and all(_plain(entry) for entry in value))
