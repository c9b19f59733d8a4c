"""What heads that predict the next position ask of what comes before them."""

from zoo.specs import FeatureSpec, Layout


def check_causal(features: FeatureSpec) -> None:
    """Refuse features in which a position has seen what it has to predict.

    Raises:
        ValueError: for a sequence that is not causal, and for what is no sequence.
    """
    if features.layout is Layout.SEQUENCE and features.causal:
        return
    found = "a sequence in which positions see later ones" if features.layout is Layout.SEQUENCE else f"a {features.layout}"
    raise ValueError(
        f"the head needs a causal sequence, or it would see what it has to predict, and gets {found}; "
        "set model.encoder.attention=causal (transformer) or model.encoder.direction=forward (lstm)"
    )
