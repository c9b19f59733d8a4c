"""Parameters that are not trained, for good or until a step."""

from torch import nn

from zoo.errors import ConfigError
from zoo.layers.lora import is_adapter
from zoo.prefixes import check_prefix, longest
from zoo.settings import TrainerSettings


class Freezer:
    """Keeps parameters under ``trainer.freeze`` as they are: they have no gradient, and so no state in the optimizer.

    Batch norm under these prefixes normalises with its running statistics and leaves them alone, or the frozen part would still change.
    What is frozen for good is so when this returns; what thaws later belongs to the optimizer's groups and is frozen by ``apply``.

    Adapters under a frozen prefix are trained: what a prefix of a layer freezes is the layer's own weights, as peft has it, and an adapter
    is frozen where a prefix is its whole name. What adapters froze (``zoo.layers.lora``) never thaws.

    Args:
        model: in training mode.
        settings: ``freeze`` and ``freeze_until``.

    Raises:
        ConfigError: for a prefix that covers nothing, where nothing is left to train, or where nothing would thaw.
    """

    def __init__(self, model: nn.Module, settings: TrainerSettings) -> None:
        self.prefixes, self.until = settings.freeze, settings.freeze_until
        named = dict(model.named_parameters())
        for place, prefix in enumerate(self.prefixes):
            check_prefix(f"trainer.freeze[{place}]", prefix, named)
        self.parameters = [parameter for name, parameter in named.items() if parameter.requires_grad and self._covers(name)]
        self.norms = [
            module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and longest(name, self.prefixes) is not None
        ]
        # Those whose own parameters are frozen already (under adapters) stay as they are for good.
        self.still = [
            module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad
        ]
        left = sum(parameter.requires_grad for parameter in named.values()) - len(self.parameters)
        if self.parameters and not left:
            raise ConfigError(
                "trainer.freeze",
                f"{self.prefixes} leaves nothing to train: it covers every trainable parameter",
                "fewer prefixes, e.g. trainer.freeze=[encoder]",
            )
        if self.until is not None and not self.parameters and all(norm in self.still for norm in self.norms):
            raise ConfigError(
                "trainer.freeze_until",
                f"{self.until}: nothing under {self.prefixes} could thaw then: model.lora has frozen it for good",
                "trainer.freeze_until=null: the adapters are trained, the weights under them never",
                "no adapters: model.lora.rank=null",
            )
        for norm in self.still:
            norm.eval()
        if self.until is None:
            self.apply(0)

    def _covers(self, name: str) -> bool:
        return name in self.prefixes if is_adapter(name) else longest(name, self.prefixes) is not None

    def apply(self, step: int) -> None:
        """As it is to be in optimizer step ``step``, counted from 0; after whatever has put the whole model into training mode."""
        frozen = self.until is None or step < self.until
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)
        for norm in self.still:
            norm.eval()
