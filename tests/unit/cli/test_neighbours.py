"""Vectors that `zoo predict` writes, and `zoo neighbours` over them."""

import json
from pathlib import Path

import numpy as np
import pytest

from zoo.cli.main import main
from zoo.cli.predict import written
from zoo.errors import ZooError
from zoo.inference.vectors import Index, Vectors, load_vectors, names_of, nearest, save_vectors


def some(count: int = 200, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def kept(path: Path, count: int = 200) -> Vectors:
    vectors = Vectors([f"word {row}" for row in range(count)], some(count))
    save_vectors(path, vectors)
    return vectors


def test_exact_neighbours_are_scikit_learns() -> None:
    from sklearn.neighbors import NearestNeighbors

    vectors, queries = some(3000), some(1500, seed=1)  # more than one block of queries
    distances, rows = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(vectors).kneighbors(queries)
    found = nearest(vectors, queries, 7)
    assert [[row for row, _ in ranked] for ranked in found] == rows.tolist()
    np.testing.assert_allclose([[cosine for _, cosine in ranked] for ranked in found], 1 - distances, atol=1e-6)


def test_a_query_is_no_neighbour_of_its_own_but_a_copy_of_it_is() -> None:
    vectors = some(5)
    vectors[3] = 2 * vectors[1]
    found = nearest(vectors, vectors[[1]], 10, leave_out=[1])
    assert found[0][0] == (3, pytest.approx(1.0))
    assert sorted(row for row, _ in found[0]) == [0, 2, 3, 4]


def test_the_graph_finds_nearly_all() -> None:
    pytest.importorskip("usearch", reason="pip install 'zoo-ml[search]'")
    vectors = some(2000)
    exact, graph = (nearest(vectors, vectors[:100], 5, leave_out=range(100), index=index) for index in Index)
    same = [len({row for row, _ in a} & {row for row, _ in b}) for a, b in zip(exact, graph, strict=True)]
    assert sum(same) >= 0.95 * 500
    assert graph[0][0][1] == pytest.approx(
        float(vectors[0] @ vectors[graph[0][0][0]] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[graph[0][0][0]])), abs=1e-5
    )


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_files_give_back_what_was_written(tmp_path: Path, ending: str) -> None:
    """Read by numpy and pyarrow as well."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow.parquet", reason="pip install 'zoo-ml[tables]'")
    path = tmp_path / f"folder/v{ending}"
    vectors = kept(path)
    again = load_vectors(path)
    assert again.names == vectors.names
    assert np.array_equal(again.values, vectors.values)
    if ending == ".npy":
        assert np.array_equal(np.load(path), vectors.values)
    else:
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(path)["vector"][3].as_py() == vectors.values[3].tolist()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["neighbours", *words]) == 2, words
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_neighbours_of_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = kept(tmp_path / "v.npy")
    file = str(tmp_path / "v.npy")
    assert main(["neighbours", file, "--of", "word 7", "--of", "word 0", "--top", "3", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    best = np.argsort(-(unit @ unit[7]))[1:4]
    assert [near["name"] for near in answers[0]["neighbours"]] == [f"word {row}" for row in best]
    assert answers[0]["neighbours"][0]["similarity"] == pytest.approx(float(unit[best[0]] @ unit[7]), abs=1e-6)
    assert [answer["of"] for answer in answers] == ["word 7", "word 0"]
    assert main(["neighbours", file]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 202
    kept(tmp_path / "few.npy", 3)
    assert main(["neighbours", file, "--queries", str(tmp_path / "few.npy"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["of"] == first["neighbours"][0]["name"] == "word 0"  # from another file it is an answer


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "v.npy"
    kept(file)
    assert "did you mean 'word 77'" in told(capsys, str(file), "--of", "word77")
    assert "no such file" in told(capsys, str(tmp_path / "absent.npy"))
    assert "way out: zoo predict MODEL" in told(capsys, str(tmp_path / "absent.npy"))
    assert "v.txt: vectors are kept in .npy or .parquet" in told(capsys, str(tmp_path / "v.txt"))
    assert "both say what to look for" in told(capsys, str(file), "--of", "word 1", "--queries", str(file))
    save_vectors(tmp_path / "narrow.npy", Vectors(["a"], some(1, 4)))
    assert "vectors of 16 numbers cannot be compared with queries of 4" in told(capsys, str(file), "--queries", str(tmp_path / "narrow.npy"))
    names_of(file).write_text("[1]")
    assert "no list of names" in told(capsys, str(file))
    names_of(file).write_text('["a"]')
    assert "for 1 names" in told(capsys, str(file))
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "cannot be read as vectors" in told(capsys, str(file))
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan, dtype=np.float32))
    assert "not finite" in told(capsys, str(tmp_path / "nan.npy"))


def test_answers_keep_their_rows_and_the_bad_ones_their_reason(tmp_path: Path) -> None:
    answers = [{"input": "a", "vector": [1.0, 2.0]}, {"input": "b", "error": "why"}, {"input": "c", "vector": [3.0, 4.0]}]
    assert written(answers, str(tmp_path / "v.npy")) == [{"input": "a", "row": 0}, {"input": "b", "error": "why"}, {"input": "c", "row": 1}]
    assert load_vectors(tmp_path / "v.npy").names == ["a", "c"]
    with pytest.raises(ZooError, match="the model gives answers with label"):
        written([{"input": "a", "label": "x"}], str(tmp_path / "v.npy"))
    with pytest.raises(ZooError, match="no answer to any"):
        written([{"input": "a", "error": "x"}], str(tmp_path / "w.npy"))
    assert not (tmp_path / "w.npy").exists()


def test_predict_refuses_models_without_vectors_and_files_of_no_format(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["tweet_lstm", "--text", "hi", "--vectors", "v.npy"], "--vectors v.npy: is for models that give vectors; this one gives labels"),
        (["no_such_model", "--text", "hi", "--vectors", "v.txt"], "vectors are kept in .npy or .parquet"),
    ):
        assert main(["predict", *words]) == 2
        assert message in capsys.readouterr().err
