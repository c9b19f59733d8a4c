"""How far converted models are from the library that wrote them: the largest difference of hidden states, scores, losses and gradients, model by model.

    python tools/parity_table.py

Runs the converters' tests of tests/reference (random weights that transformers, timm and torchvision saved in their own layouts, padded batches, both
ways) and prints what their comparisons found, in fp32: absolute, and relative to the largest value where that is above 1. Exit code 1 where a test fails,
or a difference is beyond 1e-5.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import ROOT, markdown, use_this_tree, verdict

use_this_tree()

BOUND = 1e-5


FILES = ("test_converters.py", "test_causal_converters.py", "test_masked_converters.py", "test_seq2seq_converters.py")


def main() -> int:
    import pytest

    found: dict[str, list[float]] = {}
    running = [""]

    def watched(compare: Any) -> Any:
        def close(ours: Any, theirs: Any) -> None:
            size = max(1.0, float(theirs.detach().abs().max()))
            found.setdefault(running[0], []).append(float((ours - theirs).detach().abs().max()) / size)
            compare(ours, theirs)

        close.watched = True  # type: ignore[attr-defined]
        return close

    class Watch:
        failed = 0

        def pytest_runtest_setup(self, item: Any) -> None:
            running[0] = item.name.removeprefix("test_")
            if not hasattr(item.module.close, "watched"):
                item.module.close = watched(item.module.close)

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.failed += report.failed

    watch = Watch()
    files = [str(ROOT / "tests" / "reference" / name) for name in FILES]
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *files], plugins=[watch])
    print(markdown(("model", "comparisons", "largest difference"), [(name, len(values), f"{max(values):.1e}") for name, values in found.items()]))
    beyond = [f"{name}: {max(values)}" for name, values in found.items() if max(values) > BOUND]
    return verdict([*beyond, *(["a test failed"] if watch.failed else [])])


if __name__ == "__main__":
    sys.exit(main())
