"""What CONTRIBUTING.md promises: a method is one object in Python, or one source file in Cream."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cream
from cream import parts

SOURCE = Path(cream.__file__).parent


class Likeliest:
    """Trains by IPO on the completions that M_t finds likeliest and least likely."""

    name, fingerprint = "likeliest", "likeliest v1"

    def parts(self, t: int) -> cream.MethodParts:
        reward = parts.LogpQuantity(unit="likelihood", model=f"M{t}")
        return cream.MethodParts.model_validate(
            {"reward": reward, "pairing": {"truncated": "keep"}, "objective": {"name": "ipo"}}
        )


def test_a_method_outside_the_package_runs_by_public_names_alone(
    tiny_recipe: Callable[..., cream.Recipe], tiny_inputs: Path, tmp_path: Path
):
    """Its reward is one log-probability column, so every pair can be looked up in the matrix."""
    recipe = tiny_recipe(tmp_path / "run", "iterations=1", "scoring.report_consistency=false")
    result = cream.run(recipe, base_dir=tiny_inputs, method=Likeliest())
    pairs = result.pairs(1).to_pylist()
    matrix = {row["completion_id"]: row for row in result.matrix(1).to_pylist()}

    assert pairs
    for pair in pairs:
        chosen, rejected = matrix[pair["chosen_id"]], matrix[pair["rejected_id"]]
        rows = (row for row in matrix.values() if row["prompt_id"] == pair["prompt_id"])
        group = [row["logps_M1"] for row in rows]
        assert (chosen["logps_M1"], rejected["logps_M1"]) == (max(group), min(group))
    assert result.summary.models[-1].model == "M2"


MINE = '''
"""One more family."""

from typing import Literal

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import LogpQuantity, MethodParts


class MineMethod(MethodSection):
    """Mine."""

    name: Literal["mine"] = "mine"
    objective: Dpo = Dpo()

    def parts(self, t: int) -> MethodParts:
        """Likelihood."""
        reward = LogpQuantity(unit="likelihood", model=f"M{t}")
        return MethodParts(reward=reward, pairing=BestWorst(), objective=self.objective)


METHODS = (MineMethod,)
'''
READS_IT = """
from cream.recipe import parse_recipe
recipe = parse_recipe('''
name: small
iterations: 1
data:
  seed: {sources: [{source: file, path: seed.jsonl}]}
  prompts: {per_iteration: 3, sources: [{source: file, path: prompts.jsonl}]}
method: mine
''', ["method.objective.beta=0.7"])
print(recipe.method.parts(3).reward, recipe.method.parts(3).objective.beta)
"""


def test_a_method_of_the_package_is_one_source_file(tmp_path: Path):
    """A copy of the sources with a file more reads recipes that name its method."""
    shutil.copytree(SOURCE, tmp_path / "cream", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cream" / "recipe" / "methods" / "mine.py").write_text(MINE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", READS_IT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["likelihood(M3)", "0.7"]
