"""The study's program on a cut: it runs arms on one M0, goes on where it was, and reports."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from cream.comparison.members import make_plan, read_methods
from cream.loop.stage_runner import Silent
from cream.preflight.opening import check_run
from cream.runs.reader import RunReader
from cream.runs.store import Run

ROOT = Path(__file__).parents[1]
CUT = (
    "data.seed.sources.0.tasks.0.count=200",
    "data.prompts.per_iteration=24",
    "data.test.sources.0.count=24",
    "iterations=1",
    "sft.epochs=1",
    "sampling.num_completions=4",
    "method.pairing.truncated=keep",
)


@pytest.mark.slow
def test_arms_are_run_on_one_seed_model_and_reported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("CREAM_CACHE", str(tmp_path / "cache"))
    import study  # pyright: ignore
    from study_report import write_report  # pyright: ignore

    out, results = tmp_path / "study", tmp_path / "results"
    sets = [word for override in CUT for word in ("--set", override)]
    arguments = ["study.py", "run", "--out", str(out), "--families", "sort", "--seeds", "11"]
    chosen = ["--groups", "whole", "--arms", "srlm-implicit,srlm-likelihood"]
    monkeypatch.setattr(sys, "argv", [*arguments, *chosen, *sets])
    study.main()
    first = (out / "sort/whole/srlm-likelihood/seed-11/iteration-1/train/stage.json").stat()
    again = [*arguments, *chosen[:-1], "srlm-implicit", *sets]  # the other arm is still reported
    monkeypatch.setattr(sys, "argv", again)
    study.main()
    results.mkdir()
    (results / "study.md").write_text("# Study\n", encoding="utf-8")
    write_report(out, results)

    then = (out / "sort/whole/srlm-likelihood/seed-11/iteration-1/train/stage.json").stat()
    assert then.st_mtime_ns == first.st_mtime_ns
    recipe = (out / "sort/recipe.yaml").read_text(encoding="utf-8")
    assert "name: sort" in recipe
    assert "name: reverse," not in recipe
    (record,) = json.loads((results / "study.json").read_text(encoding="utf-8"))
    methods = {method["name"]: method for method in record["comparison"]["methods"]}
    assert set(methods) == {"srlm-implicit", "srlm-likelihood"}
    one_m1 = methods["srlm-likelihood"]["models"][1]["by_seed"]
    assert methods["srlm-implicit"]["models"][1]["by_seed"] == one_m1
    page = (results / "study.md").read_text(encoding="utf-8")
    assert page.startswith("# Study\n")
    assert "srlm-likelihood" in page
    assert "<svg" in (results / "study.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_control_is_asked_what_m1_knows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("CREAM_CACHE", str(tmp_path / "cache"))
    import study  # pyright: ignore

    agreed = [o.replace("method.pairing.", "method.") for o in CUT] + ["sampling.temperature=0.01"]
    sets = [word for override in agreed for word in ("--set", override)]
    arguments = ["study.py", "run", "--short", "--groups", "known", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--families", "sort", "--seeds", "11", *sets])
    study.main()

    run = RunReader(tmp_path / "sort/known/control/seed-11")
    asked = run.recipe.data.prompts.by_iteration
    assert asked is not None
    tasks = [(t.name, t.lengths) for sources in asked for s in sources for t in s.tasks]  # pyright: ignore
    assert tasks == [("sort", (1, 6))] * 3


@pytest.mark.slow
def test_no_arm_is_refused_after_the_study_has_begun(tmp_path, monkeypatch):
    """Every arm of every group and variant, checked as a run is before anything is written."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from study import ARMS, RECIPE  # pyright: ignore
    from study_report import GROUPS  # pyright: ignore

    arms = yaml.safe_load(ARMS.read_text(encoding="utf-8"))
    assert set(arms["groups"]) == set(GROUPS)
    few = [*CUT[:3], "iterations=1"]
    cases = [(group, []) for group in arms["groups"]]
    for variant in arms["variants"].values():
        cases += [(group, variant["set"]) for group in variant["groups"].split(",")]
        named = {a["name"] for g in variant["groups"].split(",") for a in arms["groups"][g]["arms"]}
        assert set(variant["arms"].split(",")) <= named
    for group, sets in cases:
        overrides = [*arms["groups"][group]["set"], *sets, *few]
        choices = tmp_path / "methods.yaml"
        listed = [{k: arm[k] for k in ("name", "method")} for arm in arms["groups"][group]["arms"]]
        choices.write_text(yaml.safe_dump({"methods": listed}), encoding="utf-8")
        plan = make_plan(RECIPE, overrides, read_methods(choices), seeds=[11], root=tmp_path / "no")
        data = None
        for member in plan.members:
            run = Run(Path(member.recipe.folder))
            where = {"base_dir": tmp_path, "cache_dir": tmp_path / "cache"}
            context = check_run(member.recipe, run, Silent(), **where, data=data)
            data = context.data
            context.close()
    assert not (tmp_path / "no").exists()


def test_shares_of_the_oracles_gain_over_families_by_hand(monkeypatch):
    """Gains 4 and 2 of the oracle's 8 and 10: 1/2 and 1/5. Less a control of -2: 6/10 and 4/12."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from study_report import over_families  # pyright: ignore

    def record(family, group, **gained):
        by_arm = [
            {
                "name": arm,
                "models": [{}, {"by_seed": {"1": 0.1}}, {"by_seed": {"1": 0.1 + g / 100}}],
            }
            for arm, g in gained.items()
        ]
        return {
            "family": family,
            "variant": "",
            "group": group,
            "comparison": {"methods": by_arm},
        }

    records = [
        record("copy", "whole", oracle=8, votes=4),
        record("copy", "known", control=-2),
        record("edit", "whole", oracle=10, votes=2),
        record("edit", "known", control=-2),
        record("sort", "whole", oracle=1, votes=1),  # no room
        record("reverse", "whole", oracle=10, votes=9),  # chosen on
    ]
    (table,) = over_families(records)

    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["votes"] == ("+4.0", "+2.0", "+1.0", "+9.0", "35 % [35, 35]", "47 % [47, 47]")
    assert rows["control"] == ("-2.0", "-2.0", "", "", "", "")
    assert "copy, edit" in table.title
