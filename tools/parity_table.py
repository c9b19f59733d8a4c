"""How far converted models are from the library that wrote them: the largest absolute difference of hidden states and logits, model by model.

    python tools/parity_table.py

Runs tests/reference/test_converters.py (random weights that transformers, timm and torchvision saved in their own layouts, padded batches, both ways) and
prints what its comparisons found, in fp32. Exit code 1 where a test fails, or a difference is beyond 1e-5.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import ROOT, markdown, use_this_tree, verdict

use_this_tree()


def main() -> int:
    import pytest

    from tests.reference import test_converters as tests

    found: dict[str, list[float]] = {}
    running = [""]
    compare = tests.close

    def close(ours: Any, theirs: Any) -> None:
        found.setdefault(running[0], []).append(float((ours - theirs).abs().max()))
        compare(ours, theirs)

    class Watch:
        failed = 0

        def pytest_runtest_setup(self, item: Any) -> None:
            running[0] = item.name.removeprefix("test_")
            item.module.close = close

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.failed += report.failed

    watch = Watch()
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", str(ROOT / "tests" / "reference" / "test_converters.py")], plugins=[watch])
    print(markdown(("model", "comparisons", "largest difference"), [(name, len(values), f"{max(values):.1e}") for name, values in found.items()]))
    beyond = [f"{name}: {max(values)}" for name, values in found.items() if max(values) > tests.BOUND]
    return verdict([*beyond, *(["a test failed"] if watch.failed else [])])


if __name__ == "__main__":
    sys.exit(main())
