"""Every block of docs/python.md runs, and does what the page says."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"


def blocks() -> list[tuple[int, str]]:
    """Line of each Python block, and its text."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


@pytest.fixture(scope="module")
def namespace(
    tmp_path_factory: pytest.TempPathFactory, tiny_inputs: Path, recipe_values: dict[str, Any]
) -> dict[str, Any]:
    """What the page's names are after its last block, run in a folder with a tiny recipe."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(tiny_inputs / "model", folder / "model")
    for name in ("seed", "prompts", "test"):
        shutil.copy(tiny_inputs / f"{name}.jsonl", folder)
    values = {
        **recipe_values,
        "model": {**recipe_values["model"], "name": "./model"},
        "sft": {**recipe_values["sft"], "epochs": 6},
        "evaluation": {"max_completion_tokens": 4, "num_samples": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line, code in blocks():
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), names)
    names["folder"] = folder
    return names


def summary_of(names: dict[str, Any], run: str) -> dict[str, Any]:
    text = (names["folder"] / "runs" / run / "summary.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_the_page_runs_and_every_run_is_whole(namespace: dict[str, Any]):
    runs = sorted(path.name for path in (namespace["folder"] / "runs").iterdir())

    assert len(blocks()) >= 8
    assert runs == ["against-m1", "brevity", "cooler", "first", "parity", "politely", "probed"]
    assert all(summary_of(namespace, name)["models"] for name in runs)


def test_the_method_of_the_page_compares_with_m1_from_the_second_iteration_on(
    namespace: dict[str, Any],
):
    summary = summary_of(namespace, "against-m1")

    assert summary["method"] == "custom"
    assert [iteration["compared"] for iteration in summary["iterations"]] == [
        "mean_likelihood(M1), mean_likelihood(M0)",
        "mean_likelihood(M2), mean_likelihood(M1)",
    ]


def test_the_scorer_of_the_page_picks_the_pairs(namespace: dict[str, Any]):
    """A chosen completion is shorter than its rejected one, in characters."""
    import cream

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(namespace["folder"])
        result = cream.open_run("runs/brevity")
        length = {row["completion_id"]: len(row["text"]) for row in result.matrix(1).to_pylist()}
        pairs = result.pairs(1).to_pylist()

    assert pairs
    assert all(length[pair["chosen_id"]] < length[pair["rejected_id"]] for pair in pairs)


def test_the_verifier_of_the_page_judged_the_test_answers(namespace: dict[str, Any]):
    """Answers with more than one digit are right by parity and wrong by an exact match."""
    import pyarrow.parquet as pq

    (path,) = (namespace["folder"] / "runs/parity/sft/evaluate").glob("part-00000.parquet")
    rows = pq.read_table(path).to_pylist()
    digits = [row for row in rows if row["text"].strip().isdecimal()]

    assert [row["extracted"] for row in rows] == [
        row["text"].strip() if row["text"].strip().isdecimal() else None for row in rows
    ]
    assert digits


def test_the_sampler_of_the_page_draws_other_completions(namespace: dict[str, Any]):
    import pyarrow.parquet as pq

    def texts(run: str) -> list[str]:
        folder = namespace["folder"] / "runs" / run / "iteration-1/sample"
        return pq.read_table(folder / "part-00000.parquet")["text"].to_pylist()

    assert texts("cooler") != texts("first")
    assert texts("parity") == texts("first")


def test_margins_of_the_page_go_towards_the_logit_of_c(namespace: dict[str, Any]):
    first, last = namespace["margins"][0], namespace["margins"][-1]
    target = torch.logit(namespace["consistency"])

    assert torch.equal(first, torch.zeros(2))
    assert ((last - target).abs() < target).all()
    assert last[0] > last[1] > 0


def test_scores_of_the_page_are_the_models_own(namespace: dict[str, Any]):
    """At temperature 1 and top-p 1 the sampling distribution is the model's own."""
    group, scored = namespace["group"], namespace["scored"]
    sums = [float(logps.sum()) for logps in scored.token_logps]

    assert sums == pytest.approx([c.sampling_logp for c in group.completions], abs=1e-3)


def test_importing_cream_loads_nothing():
    code = "import sys, cream; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert "cream" in done.stdout.split()
    assert not set(done.stdout.split()) & {"torch", "numpy", "pyarrow", "pydantic", "typer"}


def test_every_public_name_can_be_had_and_is_typed():
    """The names for type checkers, those of `__all__` and those that load are the same."""
    import cream

    tree = ast.parse((ROOT / "src/cream/__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        name.asname
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }

    assert typed | {"__version__"} == set(cream.__all__)
    for name in cream.__all__:
        assert getattr(cream, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cream.nothing  # noqa: B018
