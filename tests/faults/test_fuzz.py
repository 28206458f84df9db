"""20,000 random inputs to everything that reads: a value or one error, never a traceback or a hang.

`python tests/faults/fuzzing.py --inputs 1000000` is the long form.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzzing import fuzz_target, make_targets, told

INPUTS = int(os.environ.get("CREAM_FUZZ_INPUTS", "20000"))
NAMES = (
    *("recipe", "override", "jsonl", "csv", "parquet", "extraction", "verifiers", "judge"),
    *(
        "template",
        "conversation",
        "licence",
        "configuration",
        "index",
        "weights",
        "records",
        "plan",
        "shard",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_random_inputs_are_read_or_refused(name: str, tmp_path: Path):
    (target,) = [t for t in make_targets(tmp_path) if t.name == name]
    found = fuzz_target(target, max(1, round(INPUTS * target.share)), seed=1)

    assert found.refused > 0 or name in ("extraction", "verifiers", "judge", "licence", "records")
    assert not found.wrong, told({name: found}) + "\n" + found.wrong[0][0]


def test_every_target_is_tried(tmp_path: Path):
    targets = make_targets(tmp_path)

    assert tuple(target.name for target in targets) == NAMES
    assert 0.9 < sum(target.share for target in targets) <= 1
