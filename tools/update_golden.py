"""Write the golden resolved configs anew: ``python tools/update_golden.py``, then read the diff."""

import os
from pathlib import Path

from zoo.compose import compose
from zoo.presets import conf_dir

GOLDEN = Path(__file__).parents[1] / "tests" / "configs" / "golden"


def main() -> None:
    os.environ.pop("ZOO_DATA", None)  # the presets' own folders, not this machine's
    GOLDEN.mkdir(exist_ok=True)
    wanted = {"train.yaml": compose([]).to_yaml()}
    for file in sorted((conf_dir() / "experiment").rglob("*.yaml")):
        name = file.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
        wanted[f"experiment__{name.replace('/', '__')}.yaml"] = compose([f"experiment={name}"]).to_yaml()
    for old in GOLDEN.glob("*.yaml"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (GOLDEN / name).write_text(text)
    print(f"{len(wanted)} files in {GOLDEN}")


if __name__ == "__main__":
    main()
