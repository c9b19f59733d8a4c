"""Write scikit-learn's copy of the Wisconsin diagnostic breast cancer data as a CSV with a header.

usage: python tools/prepare_breast_cancer.py [--data DEST/x]
"""

import argparse
import csv
import os
from pathlib import Path


def prepare(data: Path) -> Path:
    """The CSV, below ``data / breast_cancer``."""
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    path = data / "breast_cancer" / "breast_cancer.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*source.feature_names, "diagnosis"])
        writer.writerows([*map(float, row), source.target_names[label]] for row, label in zip(source.data, source.target, strict=True))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    print(prepare(parser.parse_args().data))


if __name__ == "__main__":
    main()
