"""zoo: compose, check, train, resume and use models for text, images, sound and interactions.

In Python::

    zoo.list("encoder", "vit*")                      # names, without importing torch
    model = zoo.create("vit_tiny", num_classes=10)   # a torch.nn.Module; of any data with spec=zoo.specs.DataSpec(...)
    answers = zoo.load("runs/digits/latest/bundle").predict(["seven.png"])
"""

from typing import TYPE_CHECKING, Any

from zoo.fetching import tell_libraries

if TYPE_CHECKING:
    from zoo.inference.predictor import Predictor
    from zoo.model import Model
    from zoo.specs import DataSpec

tell_libraries()
__version__ = "0.1.0"
__all__ = ["create", "list", "load"]


def list(kind: str, pattern: str = "*") -> Any:
    """Sorted names of the registered components of a kind that match a shell wildcard; imports no torch.

    Raises:
        RegistryError: for an unknown kind.
    """
    from zoo.registry import registry

    return registry(kind).names(pattern)


def create(name: str, *, spec: "DataSpec | None" = None, **options: Any) -> "Model":
    """An untrained model of an encoder or preset: for images by ``num_classes`` and sizes, for any data by its spec; see ``zoo.build.create``."""
    from zoo.build import create

    return create(name, spec=spec, **options)


def load(uri: str, *, device: str = "auto") -> "Predictor":
    """A bundle, a run's directory, or a pretrained name, ready to ``predict`` on raw inputs; see ``zoo.hub.load``."""
    from zoo.hub.resolve import load

    return load(uri, device=device)
