"""Write manifests of VADER's human ratings: one CSV a domain, two classes.

usage: python tools/prepare_vader.py [--data DEST/x] [--least 0.5]

The rule: the mean rating of a text, -4 to 4, is positive at +least or more and negative at -least or less; what lies between is dropped.
`tools/fetch_real_data.py vader` calls this.
"""

import argparse
import csv
import os
from pathlib import Path

SOURCE = "vaderSentiment-3.3.2/hutto_ICWSM_2014"
DOMAINS = {
    "tweets": "tweets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}


def prepare(data: Path, least: float) -> dict[str, dict[str, int]]:
    """Class counts of each manifest that was written below ``data / vader_manifests``."""
    target = data / "vader_manifests"
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[str, dict[str, int]] = {}
    for domain, name in DOMAINS.items():
        counts[domain] = {"positive": 0, "negative": 0, "dropped": 0}
        with (target / f"{domain}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "rating", "label", "text"])
            for line in (data / SOURCE / name).read_text(encoding="utf-8", errors="replace").splitlines():
                number, rating, text = line.split("\t", 2)
                label = "positive" if float(rating) >= least else "negative" if float(rating) <= -least else "dropped"
                counts[domain][label] += 1
                if label != "dropped":
                    writer.writerow([number, rating, label, text.strip()])
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    parser.add_argument("--least", type=float, default=0.5)
    options = parser.parse_args()
    if not (options.data / SOURCE).is_dir():
        raise SystemExit(f"no {options.data / SOURCE}; `python tools/fetch_real_data.py vader` gets it")
    for domain, counts in prepare(options.data, options.least).items():
        print(f"{options.data / 'vader_manifests' / domain}.csv: " + ", ".join(f"{count} {label}" for label, count in counts.items()))


if __name__ == "__main__":
    main()
