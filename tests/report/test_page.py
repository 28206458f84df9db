"""The page says what the records say, escapes everything, and loads nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hand_made_run import STAGES, plan_of, write_run
from page_run import TASKS, recipe_values, write_page_run
from scipy.stats import rankdata

from cream.errors import RunError
from cream.recipe.load import validate_recipe
from cream.report.explain import OUTCOMES, explain
from cream.report.markup import table, text
from cream.report.page import PageSection, write_full_page, write_page
from cream.report.page.account import REQUIRED, settings
from cream.report.page.document import run_names
from cream.report.page.headline import gain_in_words
from cream.report.page.packing import pack
from cream.report.ranked import ranks
from cream.report.summary import Difference, RunSummary
from cream.runs.files import write_json, write_yaml
from tiny_run import restamped

HOSTILE = (
    "</script><script>window.caught=1</script>",
    "<img src=x onerror='window.caught=2'>",
    "\u202egnp.exe \u2066 nul\x00 esc\x1b[31m",
    "]]> <!-- --> &lt; ${window.caught=3} $title {{x}} \u2028",
)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data


def unpacked(content: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(content)))


def records_of(page: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index, and the records in its order."""
    data = dict(re.findall(r'id="data-([a-z0-9-]+)">([A-Za-z0-9+/=]+)<', page))
    shards = [unpacked(data[f"shard-{n}"]) for n in range(len(data) - 1)]
    return unpacked(data["index"]), [record for shard in shards for record in shard]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "report.html"
    write_page([run], out)
    return out.read_text(encoding="utf-8")


# What it tells


def test_every_section_of_a_finished_run_is_there_and_in_the_contents(page: str):
    elements = Elements(page)
    sections = [a["id"] for tag, a in elements.found if tag == "section"]
    links = [a["href"] for tag, a in elements.found if tag == "a" and a.get("class") != "skip"]

    assert sections == [
        "result",
        "tasks",
        "consistency",
        "calibration",
        "witnesses",
        "margins",
        "profile",
        "losses",
        "outcomes",
        "costs",
        "recipe",
        "explorer",
    ]
    assert links == [f"#{key}" for key in sections]


def test_the_headline_has_each_accuracy_with_its_interval(page: str):
    """M1 is right on 3 of 6, M2 on the first 3 of 6: gained 1 (t1), lost 1 (t4), difference 0.

    Wilson, 3 of 6: centre (0.5 + 3.8415/12) / (1 + 3.8415/6) = 0.5, half 0.3124.
    """
    said = Elements(page).text

    assert "50.0 % [18.8, 81.2]" in said
    assert "No difference between M2 and M1 is shown: +0.0 points" in said
    assert "6 test prompts), and the interval includes zero." in said
    assert "The best fixed answer per task would score 10.0 %." in said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.09, "M3 answers 5.0 points more of the test prompts rightly than M1"),
        (-0.09, -0.01, "M3 answers 5.0 points fewer of the test prompts rightly than M1"),
        (0.0, 0.1, "No difference between M3 and M1 is shown"),
        (-0.1, 0.0, "No difference between M3 and M1 is shown"),
    ],
)
def test_the_sentence_claims_a_difference_only_if_the_interval_excludes_zero(
    low: float, high: float, said: str
):
    gain = Difference(difference=(low + high) / 2, low=low, high=high)

    assert gain_in_words(gain, "M3", 240).startswith(said)


def test_every_figure_has_a_text_alternative_and_its_numbers(page: str):
    pictures = [a for tag, a in Elements(page).found if tag == "svg" and a.get("role") == "img"]

    assert len(pictures) == page.count("<figure>") == page.count("<summary>Numbers</summary>") == 14
    assert len({a["aria-label"] for a in pictures}) == len(pictures)
    (accuracy,) = [a["aria-label"] for a in pictures if "Greedy accuracy" in str(a["aria-label"])]
    assert "M0 0.0 %, M1 50.0 %, M2 50.0 %" in str(accuracy)


def test_an_unfinished_run_has_a_page_that_says_so(tmp_path: Path):
    write_yaml(tmp_path / "run" / "recipe.yaml", recipe_values())
    write_json(tmp_path / "run" / "plan.json", plan_of(STAGES, 1).as_json())
    result = write_page([tmp_path / "run"], tmp_path / "report.html")
    said = Elements(result.path.read_text(encoding="utf-8")).text

    assert "No model has been evaluated yet" in said
    assert "0 of 1 iterations so far" in said
    assert (result.prompts, result.shown) == (0, 0)


def test_a_recipe_of_another_version_is_shown_as_it_is(tmp_path: Path):
    """`write_run` records a recipe that this version refuses."""
    root = write_run(tmp_path / "run")
    for name in ("iteration-1/pair",):
        (root / name / "stage.json").unlink()
    result = write_page([root], tmp_path / "report.html")
    said = Elements(result.path.read_text(encoding="utf-8")).text

    assert "does not read the run's recipe" in said
    assert '"name": "hand-made"' in said


def test_a_record_that_lacks_something_is_said_to_be_of_another_version(tmp_path: Path):
    root = write_page_run(tmp_path / "run")
    path = root / "iteration-1/pair/pairs.parquet"
    pq.write_table(pq.read_table(path).drop_columns("weight"), path)
    restamped(path.parent)

    with pytest.raises(RunError, match=r"weight.*: the run was made by another version"):
        write_page([root], tmp_path / "report.html")
    with pytest.raises(RunError, match="another version"):
        write_full_page([root], tmp_path / "full")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_recipe_lists_what_differs_from_a_default_and_what_has_none():
    recipe = validate_recipe(
        recipe_values(
            method={"name": "cream", "objective": {"name": "cream", "beta": 0.25}},
            sampling={"num_completions": 8},
        ),
        source="test",
    )
    found = {s.key: s for s in settings(recipe)}

    assert (found["sampling.num_completions"].value, found["sampling.num_completions"].default) == (
        8,
        5,
    )
    assert found["iterations"].default == REQUIRED
    assert found["data.test.sources.0.path"].default == REQUIRED
    differ = {k for k, s in found.items() if s.default != REQUIRED and s.value != s.default}
    verifiers = {f"data.{role}.sources.0.verifier" for role in ("seed", "prompts", "test")}
    assert differ == {"sampling.num_completions", "method.objective.beta", "seed"} | verifiers


def test_sections_of_others_join_the_page(run: Path, tmp_path: Path):
    extra = PageSection("compare", "Compared <methods>", table(["a"], [["<b>"]], "c"))
    result = write_page([run], tmp_path / "report.html", extra=[extra])
    written = result.path.read_text(encoding="utf-8")

    assert "Compared &lt;methods&gt;" in written
    assert '<section id="compare"' in written


def test_runs_side_by_side_share_the_headline_and_the_explorer(run: Path, tmp_path: Path):
    other = write_page_run(
        tmp_path / "other", recipe=recipe_values(method={"name": "srlm"}), prompts=4
    )
    result = write_page([run, other], tmp_path / "report.html")
    written = result.path.read_text(encoding="utf-8")
    index, records = records_of(written)

    assert index["runs"] == ["cream", "srlm"]
    assert Counter(index["rows"]["run"]) == {0: 8 + 6, 1: 4 + 6}
    assert len(records) == result.prompts == 24
    assert written.count('<section id="result"') == 1
    assert '<section id="run-2-margins"' in written
    assert re.findall(r'<li><a href="#([^"]+)">', written) == [
        "result",
        "run-1-tasks",
        "run-2-tasks",
        "explorer",
    ]
    (headline,) = re.findall(r'aria-label="(Greedy accuracy per model[^"]*)"', written)
    assert "cream M0" in headline
    assert "srlm M0" in headline


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([("a", "cream", 0), ("a", "srlm", 0)], ["cream", "srlm"]),
        ([("a", "cream", 0), ("a", "cream", 1)], ["cream, seed 0", "cream, seed 1"]),
        ([("a", "cream", 0), ("b", "cream", 0)], ["a (cream)", "b (cream)"]),
        ([("a", "cream", 0), ("a", "cream", 0)], ["r0", "r1"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(
    runs: Sequence[tuple[str, str, int]], names: Sequence[str]
):
    nothing = {"models": [], "baseline": {}, "iterations": [], "seconds": {}, "seconds_by_kind": {}}
    told = {"iterations_planned": 1, **nothing}
    summaries = [RunSummary(name=n, method=m, seed=s, **told) for n, m, s in runs]
    roots = [Path(f"r{i}") for i in range(len(runs))]

    assert run_names(summaries, roots) == names


# What the explorer holds


def test_the_explorer_holds_every_completion_with_its_reward_ranks_and_pair(run: Path, page: str):
    index, records = records_of(page)
    matrix = pq.read_table(run / "iteration-1/matrix/part-00000.parquet").to_pylist()
    pairs = {
        row["prompt_id"]: row
        for row in pq.read_table(run / "iteration-1/pair/pairs.parquet").to_pylist()
    }
    key = next(k for k in pairs if k == index["rows"]["id"][0])
    rows = {row["completion_id"]: row for row in matrix if row["prompt_id"] == key}
    record = records[0]
    (chosen, rejected, _, _) = record["pairs"][0]
    implicit = sorted({r["logps_M1"] - r["logps_M0"] for r in rows.values()}, reverse=True)

    assert len(index["rows"]["id"]) == 8 + 6
    assert [c["copies"] for c in record["completions"]] == [2, 1, 1]
    assert record["quantities"][0] == "implicit(M1)"
    by_rank = sorted(record["completions"], key=lambda c: c["ranks"][0])
    assert [c["values"][0] for c in by_rank] == pytest.approx(implicit, abs=1e-4)
    assert record["completions"][chosen]["text"] == rows[pairs[key]["chosen_id"]]["text"]
    assert record["completions"][rejected]["text"] == rows[pairs[key]["rejected_id"]]["text"]
    assert record["completions"][chosen]["ranks"][0] == 1
    assert record["completions"][rejected]["ranks"][0] == 3
    (decided,) = (
        row
        for row in pq.read_table(run / "iteration-1/pair/prompts.parquet").to_pylist()
        if row["prompt_id"] == key
    )
    rate = (decided["correlation"] + 1) / 2
    assert index["rows"]["c"][0] == pytest.approx(rate, abs=1e-4)
    assert record["outcome"] == OUTCOMES["paired"]
    assert record["words"] == explain("consistency", run, key, 1).words


def test_a_test_prompt_shows_how_each_model_answered_and_what_changed(page: str):
    """M1 is right on even prompts, M2 on 0, 1, 2: prompt 1 is gained, prompt 4 lost."""
    index, records = records_of(page)
    first = index["rows"]["set"].index(index["sets"].index("test"))
    changes = index["rows"]["change"][first:]
    greedy = {m: given[0]["correct"] for m, given in records[first + 1]["answers"].items()}

    assert changes == [0, 1, 0, 0, 2, 0]
    assert index["rows"]["right"][first:] == [1, 1, 1, 2, 2, 2]
    assert greedy == {"M0": False, "M1": False, "M2": True}
    assert [len(given) for given in records[first]["answers"].values()] == [3, 3, 3]


def test_ranks_share_ties_and_leave_out_what_does_not_count():
    values = np.array([[3.0, 1.0, 2.0, 9.0], [5.0, 5.0, np.nan, 4.0]])
    counted = np.array([[True, True, True, False], [True, True, True, True]])

    none = np.nan
    expected = [[1, 3, 2, none], [1.5, 1.5, none, 3]]
    assert np.array_equal(ranks(values, counted), expected, equal_nan=True)


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 6, (50, 9)).astype(np.float64)
    expected = rankdata(-values, method="average", axis=1)

    assert (ranks(values, np.ones(values.shape, dtype=bool)) == expected).all()


# A sample where there is too much


def entries_of(root: Path) -> Any:
    from cream.report.page.entries import entries
    from cream.report.page.records import read_run

    records = read_run(root)
    return lambda: ((0, entry) for entry in entries(records))


def test_too_many_records_become_a_sample_with_the_same_share_of_everything(tmp_path: Path):
    root = write_page_run(tmp_path / "run", prompts=1200, test=300)
    source = entries_of(root)
    whole = pack(source)
    sample = pack(source, limit=sum(map(len, whole.shards)) // 3)
    share = len(sample.index) / len(whole.index)

    def strata(packed: Any) -> Counter[tuple[Any, ...]]:
        rows = packed.index.rows
        sets = list(packed.index.names["sets"])
        names = ("task", "outcome", "right")
        return Counter(
            (sets[rows["set"][i]], *(rows[name][i] for name in names))
            for i in range(len(packed.index))
        )

    assert not whole.sampled
    assert sample.sampled
    assert sample.total == len(whole.index) == 1500
    assert 0.1 < share < 0.4
    assert sum(map(len, sample.shards)) <= sum(map(len, whole.shards)) // 3
    # Codes of tasks, outcomes and verdicts are given in order of appearance, alike in both here.
    for stratum, n in strata(whole).items():
        assert strata(sample)[stratum] == pytest.approx(share * n, abs=1.001)
    assert pack(source, limit=sum(map(len, whole.shards)) // 3).shards == sample.shards


def test_a_limit_that_no_record_fits_leaves_an_empty_sample(run: Path):
    packed = pack(entries_of(run), limit=10)

    assert (len(packed.index), packed.total, packed.shards) == (0, 14, ())


def test_a_sampled_page_says_so_and_names_the_way_to_all(run: Path, tmp_path: Path):
    result = write_page([run], tmp_path / "report.html", limit=1500)
    said = Elements(result.path.read_text(encoding="utf-8")).text

    assert 0 < result.shown < result.prompts == 14
    assert f"A sample: {result.shown} of 14 prompts" in said
    assert "--full DIR" in said


def test_the_same_run_gives_the_same_page(run: Path, page: str, tmp_path: Path):
    assert write_page([run], tmp_path / "a.html").path.read_text(encoding="utf-8") == page


# A folder with everything


def test_the_full_page_has_every_record_in_shards_beside_it(run: Path, page: str, tmp_path: Path):
    result = write_full_page([run], tmp_path / "full")
    shards = sorted((tmp_path / "full" / "records").iterdir())
    read = [
        unpacked(re.fullmatch(r'creamShard\(\d+,"([^"]+)"\)\n', path.read_text())[1])  # type: ignore[index]
        for path in shards
    ]

    assert [record for shard in read for record in shard] == records_of(page)[1]
    assert result.path == tmp_path / "full" / "index.html"
    files = [p for p in (tmp_path / "full").rglob("*") if p.is_file()]
    assert result.bytes == sum(p.stat().st_size for p in files)


def test_a_full_page_replaces_an_older_one_and_nothing_else(run: Path, tmp_path: Path):
    folder = tmp_path / "full"
    write_full_page([run], folder)
    stale = folder / "records" / "99999.js"
    stale.write_text("x")
    write_full_page([run], folder)

    assert not stale.exists()
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds something else than a report \(found thesis.tex\)"):
        write_full_page([run], folder)
    assert (folder / "thesis.tex").exists()


# Nothing gets in, nothing goes out


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile")
    root = write_page_run(
        folder / "run",
        text=lambda n, k: HOSTILE[(n + k) % len(HOSTILE)],
        tasks=HOSTILE,
        warnings=HOSTILE,
    )
    write_page([root], folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_no_text_becomes_an_element_or_an_attribute(hostile_page: str, page: str):
    """A hostile run's page has the kinds of element and attribute of a plain one's, no more."""
    hostile, plain = Elements(hostile_page), Elements(page)

    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in plain.found}
    names = {name for _, attributes in hostile.found for name in attributes}
    assert names <= {name for _, attributes in plain.found for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert hostile_page.count("</script>") == len([t for t, _ in hostile.found if t == "script"])
    assert not set(hostile_page) & set("\x00\x1b\u202e\u2066")
    assert HOSTILE[1] in hostile.text  # as text, where a task is named


def test_hostile_texts_arrive_whole_in_the_records(hostile_page: str):
    _, records = records_of(hostile_page)
    found = {c["text"] for record in records for c in record.get("completions", [])}

    assert found == set(HOSTILE)


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(page: str):
    elements = Elements(page)
    (policy,) = [
        str(a["content"])
        for tag, a in elements.found
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))

    def hashed(content: str) -> str:
        digest = hashlib.sha256(content.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    style = page.partition("<style>")[2].partition("</style>")[0]
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    assert rules == {
        "default-src": "'none'",
        "script-src": hashed(script),
        "style-src": hashed(style),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_names_no_address_and_no_path_of_the_machine(run: Path, page: str):
    elements = Elements(page)
    loads = [a[n] for _, a in elements.found for n in ("src", "href", "action") if a.get(n)]

    assert all(str(target).startswith("#") for target in loads)
    assert "http://" not in page
    assert "https://" not in page
    assert str(run.parent) not in page


def test_control_characters_are_shown_and_markup_is_escaped():
    assert text("a\x00b\u202e<\"'>&\n") == "a␀b⟨U+202E⟩&lt;&quot;&#x27;&gt;&amp;\n"


def test_tasks_are_named_in_the_index(page: str):
    assert records_of(page)[0]["tasks"] == list(TASKS)
