"""Real Ray on this machine; what needs it is skipped with a sentence where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with room for three workers, ended after the tests of a file."""
    found = pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    found.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()
