"""The manifest of stamps: captions, those of mirrored pictures, what is withheld, and small categories left out."""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import prepare_tuxpaint


def test_the_manifest(tmp_path: Path) -> None:
    root = tmp_path / prepare_tuxpaint.SOURCE
    for name in [*(f"animals/cat{number}" for number in range(40)), "animals/cat0_mirror", "animals/nameless", "space/moon"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.png").write_bytes(b"")
        if not name.endswith(("mirror", "nameless")):
            (root / f"{name}.txt").write_text(f"A cat, {name[-2:]}.\nde.utf8=Eine Katze.\n", encoding="utf-8")
    counts = prepare_tuxpaint.prepare(tmp_path, least=2, withheld=0.3)
    assert counts == {"animals": 42}
    with (tmp_path / prepare_tuxpaint.TARGET / "stamps.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 42
    assert rows["animals/cat0_mirror.png"]["caption"] == rows["animals/cat0.png"]["caption"] == "A cat, t0."
    assert rows["animals/cat0_mirror.png"]["concept"] == rows["animals/cat0.png"]["concept"]
    assert rows["animals/nameless.png"]["caption"] == ""
    assert rows["animals/nameless.png"]["concept"] == "nameless"
    assert {row["some_captions"] in ("", row["caption"]) for row in rows.values()} == {True}
    withheld = sum(not row["some_captions"] for row in rows.values())
    assert 4 < withheld < 25
    prepare_tuxpaint.prepare(tmp_path, least=2, withheld=0.3)
    with (tmp_path / prepare_tuxpaint.TARGET / "stamps.csv").open(encoding="utf-8") as file:
        assert {row["image"]: row for row in csv.DictReader(file)} == rows
