"""Write a manifest of Tux Paint's stamps: pictures, English captions, and the folder that a picture is in as its category.

usage: python tools/prepare_tuxpaint.py [--data DEST/x] [--least 30] [--withheld 0.3]

The rule: PNG pictures of the categories that have at least so many. `caption` is the first line of the picture's text file (a mirrored picture without
one has that of its original); `some_captions` is the same with a part withheld, chosen by the hash of the path; `concept` is the caption in lower
case, so that pictures of one thing stay together in a split. `tools/fetch_real_data.py stamps` calls this.
"""

import argparse
import csv
import os
import zlib
from collections import Counter
from pathlib import Path

SOURCE, TARGET = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps", "tuxpaint_manifests"


def prepare(data: Path, least: int = 30, withheld: float = 0.3) -> Counter[str]:
    """Pictures of each category in ``data / tuxpaint_manifests / stamps.csv``."""
    root, target = data / SOURCE, data / TARGET
    pictures = sorted(root.rglob("*.png"))
    counts = Counter(picture.relative_to(root).parts[0] for picture in pictures)
    kept = Counter({label: count for label, count in counts.items() if count >= least})
    target.mkdir(parents=True, exist_ok=True)
    with (target / "stamps.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "caption", "some_captions", "concept", "label"])
        for picture in pictures:
            path = picture.relative_to(root)
            if path.parts[0] in kept:
                caption = caption_of(picture)
                seen = zlib.crc32(path.as_posix().encode()) % 1000 >= 1000 * withheld
                writer.writerow([path.as_posix(), caption, caption if seen else "", caption.lower() or path.stem, path.parts[0]])
    return kept


def caption_of(picture: Path) -> str:
    """Empty where there is none."""
    for stem in (picture.stem, picture.stem.removesuffix("_mirror")):
        text = picture.with_name(f"{stem}.txt")
        if text.is_file():
            return next(iter(text.read_text(encoding="utf-8", errors="replace").splitlines()), "").strip()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ZOO_REAL_DATA", ".real/x")))
    parser.add_argument("--least", type=int, default=30)
    parser.add_argument("--withheld", type=float, default=0.3)
    options = parser.parse_args()
    if not (options.data / SOURCE).is_dir():
        raise SystemExit(f"no {options.data / SOURCE}; `python tools/fetch_real_data.py stamps` gets it")
    counts = prepare(options.data, options.least, options.withheld)
    print(f"{options.data / TARGET / 'stamps.csv'}: " + ", ".join(f"{count} {label}" for label, count in counts.most_common()))


if __name__ == "__main__":
    main()
