"""Put a finished run's bundle into model_cards/ with its card, and write its record in conf/pretrained/.

    python tools/publish_checkpoint.py RUN [RUN ...] --name NAME --summary TEXT --task TASK --modality text --licence MIT --origin TEXT --protocol TEXT \
        --figure test/accuracy --use TEXT --limits TEXT

The first run's weights are published; further ones (other seeds) give the card its spread. Refuses more than 2 MiB of weights: those belong on the Hub
(`zoo push`). `tests/e2e/test_pretrained.py` holds card, record and experiment together.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import ROOT, use_this_tree

use_this_tree()
LARGEST = 2 << 20


def record(folder: Path, options: argparse.Namespace) -> str:
    """The YAML of a bundle's record; keys in the order in which people read them."""
    import yaml

    from zoo.hub.bundle import METRICS, open_bundle

    bundle = open_bundle(folder)
    measured = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    about = {
        "task": options.task,
        "modality": options.modality,
        "architecture": bundle.config["model"]["encoder"]["name"],
        "licence": options.licence,
        "origin": options.origin,
        "parameters": measured["parameters"],
        "metrics": {name: measured["metrics"][name] for name in options.figure},
        "protocol": options.protocol,
        "bundle": f"model_cards/{options.name}",
    }
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".md", ".png")]
    lines = [f"  {path.relative_to(folder)}: {{sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}, size: {path.stat().st_size}}}" for path in kept]
    return "\n".join([f"# {options.summary}", yaml.safe_dump(about, sort_keys=False, width=500).rstrip(), "files:", *lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for name in ("name", "summary", "task", "modality", "licence", "origin", "protocol", "use", "limits"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--figure", action="append", required=True)
    options = parser.parse_args()

    from zoo.hub.bundle import open_bundle
    from zoo.hub.card import write_card
    from zoo.hub.push import publishable

    write_card(options.runs, use=options.use, limits=options.limits, licence=options.licence)
    made = open_bundle(options.runs[0]).path
    size = (made / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{made}: weights of {size:,} bytes, more than the {LARGEST:,} that may lie in the repository\n  way out: zoo push")
    sent = publishable(made)
    folder = ROOT / "model_cards" / options.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    for name, content in sent.rewritten.items():
        (folder / name).write_bytes(content)
    for key, change in sent.portable.items():
        print(f"{key}: {change}")
    file = ROOT / "conf" / "pretrained" / f"{options.name}.yaml"
    file.write_text(record(folder, options), encoding="utf-8")
    print(f"{folder}\n{file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
