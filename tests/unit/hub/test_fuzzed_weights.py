"""R1, R6: safetensors whose headers lie, by the thousand: refused with one clear error, or the same tensors.

Random bytes and random JSON (hypothesis); the format is https://huggingface.co/docs/safetensors.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.hub.bundle import load_bundle
from zoo.hub.resolve import pretrained

CONTENT = (pretrained()["digits_cnn"] / "model.safetensors").read_bytes()
LENGTH = struct.unpack("<Q", CONTENT[:8])[0]
HEADER: dict[str, Any] = json.loads(CONTENT[8 : 8 + LENGTH])
NAMES = sorted(name for name in HEADER if name != "__metadata__")
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5) | st.sampled_from(["F64", "I32", "BF16", "U8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(pretrained()["digits_cnn"], tmp_path_factory.mktemp("fuzzed") / "b"))


@pytest.fixture(scope="module")
def right() -> dict[str, torch.Tensor]:
    return load_bundle(pretrained()["digits_cnn"], torch.device("cpu")).model.state_dict()


def refused(bundle: Path, content: bytes, right: dict[str, torch.Tensor]) -> bool:
    """Whether these weights are; else they have to be the right ones."""
    (bundle / "model.safetensors").write_bytes(content)
    try:
        found = load_bundle(bundle, torch.device("cpu")).model.state_dict()
    except ZooError:
        return True
    assert found.keys() == right.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
    return False


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 8 + LENGTH - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_of_the_header(bundle: Path, right: dict[str, torch.Tensor], changes: list[tuple[int, int]]) -> None:
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    told, gone = tensors_told(bytes(content)), refused(bundle, bytes(content), right)
    if told != tensors_told(CONTENT):
        assert gone
    elif bytes(content) == CONTENT:
        assert not gone
    # What is left differs in its metadata or its blanks alone, which may be refused or not.


@FUZZ
@given(st.sampled_from(NAMES), st.sampled_from(["dtype", "shape", "data_offsets"]), ANY_JSON)
def test_what_a_tensor_is_said_to_be(bundle: Path, right: dict[str, torch.Tensor], name: str, key: str, value: Any) -> None:
    header = {**HEADER, name: {**HEADER[name], key: value}}
    raw = json.dumps(header).encode()
    assert refused(bundle, struct.pack("<Q", len(raw)) + raw + CONTENT[8 + LENGTH :], right) is (value != HEADER[name][key])


@FUZZ
@given(st.integers(0, 2**64 - 1), st.integers(0, len(CONTENT)))
def test_lengths(bundle: Path, right: dict[str, torch.Tensor], told: int, kept: int) -> None:
    content = struct.pack("<Q", told) + CONTENT[8:kept]
    assert refused(bundle, content, right) is (content != CONTENT)


def tensors_told(content: bytes) -> Any:
    """What a header says of tensors, and how long it is, on which depends where they begin; None where it is no header."""
    length = struct.unpack("<Q", content[:8])[0]
    try:
        found = json.loads(content[8 : 8 + length])
    except ValueError:
        return None
    return (length, {name: entry for name, entry in found.items() if name != "__metadata__"}) if isinstance(found, dict) else None
