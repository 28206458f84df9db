"""A run directory never mixes results of different inputs, and loses one part at most."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from cream.errors import RunError
from cream.records import StageSpec
from cream.runs.files import (
    read_json,
    read_sealed,
    read_table,
    read_yaml,
    write_json,
    write_sealed,
)
from cream.runs.plan import StoredPlan
from cream.runs.store import BEGUN, DONE, Run, Stage, fingerprint

SPEC = StageSpec(name="s", kind="sample", label="sample")
INPUTS = {"model": "abc", "settings": {"a": 1, "b": [1, 2]}}


def table(*values: int) -> pa.Table:
    return pa.table({"x": list(values), "y": [str(v) for v in values]})


def finished_stage(folder: Path) -> Stage:
    stage = Stage(folder, INPUTS, SPEC)
    stage.begin()
    stage.write_part(0, table(1, 2), 1.5)
    stage.write_part(1, table(3), 2.0)
    stage.finish({"rows": 3}, stage.part_seconds())
    return stage


# --- fingerprints ---


def test_a_fingerprint_is_golden():
    """It stands in every run directory: a change would make all of them unusable."""
    assert fingerprint(INPUTS) == "3cdee3e6b666f03a2974fe73"


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1, "b": [2, 1]},
        {"a": 1, "b": [1, 2], "c": None},
        {"a": "1", "b": [1, 2]},
        {"a": 1.5, "b": [1, 2]},
        {"a": True, "b": [1, 2]},
        {"A": 1, "b": [1, 2]},
        {"a": 1, "b": [[1], 2]},
    ],
)
def test_a_fingerprint_notices_every_change(other):
    assert fingerprint(other) != fingerprint({"a": 1, "b": [1, 2]})


def test_a_fingerprint_of_what_is_not_json_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"a": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"a": {1, 2}})


# --- stages ---


def test_a_finished_stage_is_known_by_its_record(tmp_path: Path):
    finished_stage(tmp_path / "s")
    record = Stage(tmp_path / "s", INPUTS, SPEC).finished()

    assert record is not None
    assert record.summary == {"rows": 3}
    assert record.seconds == 3.5
    assert record.fingerprint == fingerprint(INPUTS)
    assert not (tmp_path / "s" / BEGUN).exists()


def test_a_stage_that_was_never_begun_is_not_finished(tmp_path: Path):
    assert Stage(tmp_path / "s", INPUTS, SPEC).finished() is None


def test_an_interrupted_stage_keeps_whole_parts_and_loses_leftovers(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    stage.write_part(1, table(7), 4.0)
    leftover = tmp_path / "s" / ".tmp-killed.parquet"
    leftover.write_bytes(b"PAR1")

    again = Stage(tmp_path / "s", INPUTS, SPEC)
    assert again.finished() is None
    again.begin()

    assert not leftover.exists()
    assert again.parts() == [tmp_path / "s" / "part-00001.parquet"]
    assert not again.part(0).exists()
    assert next(again.tables())["x"].to_pylist() == [7]
    assert again.part_seconds() == 4.0


def test_parts_are_read_in_order_of_their_number_not_of_writing(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    for index in (11, 2, 0):
        stage.write_part(index, table(index), 0.0)

    assert [t["x"].to_pylist() for t in stage.tables(["x"])] == [[0], [2], [11]]


def test_a_part_keeps_the_metadata_of_its_table(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    stage.write_part(0, table(1).replace_schema_metadata({b"cream": b"{}"}), 0.25)

    assert read_table(stage.part(0)).schema.metadata == {b"cream": b"{}", b"seconds": b"0.25"}


def flip_a_bit(path: Path, *, keep_time: bool = False) -> None:
    """Flip one bit in the middle of a file: the size stays."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncate", "was changed: it has another size"),
        ("grow", "was changed: it has another size"),
        ("remove", "is missing"),
        ("flip", "is damaged: its size is right"),
        ("flip and keep the time", "is damaged: its size is right"),
    ],
)
def test_a_finished_stage_whose_file_changed_is_refused(tmp_path: Path, damage: str, words: str):
    part = finished_stage(tmp_path / "s").part(1)
    content = part.read_bytes()
    match damage:
        case "truncate":
            part.write_bytes(content[:-1])
        case "grow":
            part.write_bytes(content + b"0")
        case "remove":
            part.unlink()
        case _:
            flip_a_bit(part, keep_time=damage.endswith("time"))

    with pytest.raises(RunError, match=rf"part-00001\.parquet {words}.* the stage s: delete .*s "):
        Stage(tmp_path / "s", INPUTS, SPEC).finished()


def test_a_file_damaged_after_it_was_checked_is_noticed_by_the_same_process(tmp_path: Path):
    stage = finished_stage(tmp_path / "s")
    assert stage.finished() is not None
    flip_a_bit(stage.part(0), keep_time=True)

    with pytest.raises(RunError, match="is damaged"):
        stage.finished()


def test_a_part_that_the_stage_did_not_write_is_refused(tmp_path: Path):
    stage = finished_stage(tmp_path / "s")
    shutil.copy(stage.part(0), stage.part(2))

    with pytest.raises(RunError, match=r"part-00002\.parquet was added"):
        stage.finished()


def test_a_copy_with_other_times_is_the_same_stage(tmp_path: Path):
    finished_stage(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "other" / "s", copy_function=shutil.copyfile)

    assert Run(tmp_path / "other").finished("s").fingerprint == fingerprint(INPUTS)


def test_a_record_put_into_another_stage_is_refused(tmp_path: Path):
    finished_stage(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "t")

    with pytest.raises(RunError, match="is the record of the stage s, copied here"):
        Run(tmp_path).finished("t")


@pytest.mark.parametrize("key", ["summary", "seconds", "inputs", "files", "fingerprint"])
def test_a_value_changed_in_a_record_breaks_its_seal(tmp_path: Path, key: str):
    stage = finished_stage(tmp_path / "s")
    record = json.loads((tmp_path / "s" / DONE).read_text("utf-8"))
    other = {"summary": {"rows": 4}, "seconds": 3.6, "fingerprint": "0"}
    record[key] = other.get(key, {})
    write_json(tmp_path / "s" / DONE, record)

    with pytest.raises(RunError, match="its seal does not fit; delete its folder"):
        stage.finished()


# --- models of stages ---

MAKES_M1 = StageSpec(name="sft/train", kind="fine_tune", label="fine-tune", result="M1")


def training_stage(root: Path) -> Stage:
    """A finished stage that made a model of two files and a card."""
    stage = Run(root).stage(MAKES_M1, {})
    stage.begin()
    folder = root / "models" / "M1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    stage.finish({}, 1.0)
    return stage


def test_a_model_that_was_not_written_finishes_no_stage(tmp_path: Path):
    stage = Run(tmp_path).stage(MAKES_M1, {})
    stage.begin()

    with pytest.raises(RunError, match=r"models/M1, the model of the stage sft/train, was not"):
        stage.finish({}, 0.0)
    assert stage.finished() is None


def test_a_whole_model_passes_and_its_card_may_be_edited(tmp_path: Path):
    stage = training_stage(tmp_path)
    (tmp_path / "models/M1/README.md").write_text("edited")

    assert stage.finished() is not None
    stage.check_model()


def test_a_model_that_is_gone_is_missed_before_anything_is_read(tmp_path: Path):
    stage = training_stage(tmp_path)
    shutil.rmtree(tmp_path / "models" / "M1")

    with pytest.raises(RunError, match=r"models/M1 is missing.*of the stage sft/train: delete"):
        stage.finished()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_config.json"])
def test_a_file_put_into_a_model_is_refused(tmp_path: Path, name: str):
    stage = training_stage(tmp_path)
    (tmp_path / "models" / "M1" / name).write_text("{}")

    with pytest.raises(RunError, match=rf"{re.escape(name)} was added"):
        stage.finished()


def test_a_bit_of_a_model_is_seen_at_the_first_look_by_its_time_and_else_before_loading(
    tmp_path: Path,
):
    stage = training_stage(tmp_path)
    weights = tmp_path / "models/M1/model.safetensors"
    flip_a_bit(weights, keep_time=True)
    assert stage.finished() is not None
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        stage.check_model()

    weights.touch()
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        stage.finished()


def test_a_model_removed_on_purpose_is_no_damage_and_the_reason_is_kept(tmp_path: Path):
    stage = training_stage(tmp_path)
    stage.remove_model("keep_checkpoints: last")

    assert not (tmp_path / "models" / "M1").exists()
    assert stage.finished() is not None
    assert stage.damages(full=True) == []
    assert read_json(stage.folder / "removed.json") == {"why": "keep_checkpoints: last"}


def test_files_in_subfolders_are_watched_too(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    (tmp_path / "s" / "inner").mkdir()
    (tmp_path / "s" / "inner" / "a.txt").write_text("12")
    stage.finish({}, 0.0)
    assert stage.finished() is not None

    (tmp_path / "s" / "inner" / "a.txt").unlink()
    with pytest.raises(RunError, match=r"inner/a\.txt is missing"):
        stage.finished()


def test_a_stage_with_other_inputs_is_refused_and_the_changed_names_are_given(tmp_path: Path):
    finished_stage(tmp_path / "s")
    other = Stage(tmp_path / "s", {**INPUTS, "model": "xyz", "extra": 1}, SPEC)

    with pytest.raises(RunError, match=r"changed: extra, model\); use another run_dir"):
        other.finished()


def test_parts_of_other_inputs_are_refused_before_anything_is_added(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    stage.write_part(0, table(1), 0.0)
    other = Stage(tmp_path / "s", {"model": "abc"}, SPEC)

    assert other.finished() is None
    with pytest.raises(RunError, match=r"changed: settings\)"):
        other.begin()


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"inputs": {}, "files": {}}'])
def test_a_damaged_record_is_an_error_that_names_it(tmp_path: Path, content: str):
    finished_stage(tmp_path / "s")
    (tmp_path / "s" / DONE).write_text(content)

    with pytest.raises(RunError, match=r"stage\.json"):
        Stage(tmp_path / "s", INPUTS, SPEC).finished()
    with pytest.raises(RunError, match=r"stage\.json"):
        Run(tmp_path).finished("s")


def test_a_summary_that_is_not_json_leaves_the_stage_unfinished(tmp_path: Path):
    stage = Stage(tmp_path / "s", INPUTS, SPEC)
    stage.begin()
    with pytest.raises(ValueError, match="JSON compliant"):
        stage.finish({"loss": float("nan")}, 0.0)

    assert stage.finished() is None
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [BEGUN]


# --- runs ---


def test_a_stage_of_a_run_is_fingerprinted_by_its_name_too(tmp_path: Path):
    run = Run(tmp_path)

    first, second = (SPEC.model_copy(update={"name": name}) for name in ("a", "a/b"))
    assert run.stage(first, {"x": 1}).fingerprint != run.stage(second, {"x": 1}).fingerprint
    assert run.stage(second, {}).folder == tmp_path / "a" / "b"


def test_what_a_stage_does_is_kept_beside_its_fingerprint_and_is_no_part_of_it(tmp_path: Path):
    run, other = Run(tmp_path), SPEC.model_copy(update={"label": "said otherwise", "prompts": 3})
    stage = run.stage(SPEC, {"x": 1})
    stage.begin()
    stage.finish({}, 0.0)

    assert run.finished("s").spec == SPEC
    assert run.stage(other, {"x": 1}).finished() is not None
    record = read_sealed(tmp_path / "s" / DONE)
    write_sealed(tmp_path / "s" / DONE, {**record, "spec": {"name": "s"}})
    with pytest.raises(RunError, match="`spec` does not describe a stage"):
        run.finished("s")


def test_a_finished_stage_can_be_opened_without_knowing_its_inputs(tmp_path: Path):
    made = finished_stage(tmp_path / "s")
    found = Run(tmp_path).finished("s")

    assert found.fingerprint == made.fingerprint
    assert found.inputs == INPUTS


def test_opening_a_stage_that_is_not_finished_says_how_to_make_it(tmp_path: Path):
    Stage(tmp_path / "s", INPUTS, SPEC).begin()

    with pytest.raises(RunError, match=r"s is not finished; `cream status .*cream run"):
        Run(tmp_path).finished("s")


def test_opening_a_damaged_stage_is_refused(tmp_path: Path):
    finished_stage(tmp_path / "s").part(0).unlink()

    with pytest.raises(RunError, match=r"part-00000\.parquet is missing"):
        Run(tmp_path).finished("s")


HOLD = """
import os, sys, pathlib
from cream.errors import RunError
from cream.records import StageSpec
from cream.runs.store import Run
try:
    with Run(pathlib.Path(sys.argv[1])).locked():
        print("held")
except RunError as error:
    print(error)
"""


def hold_elsewhere(root: Path) -> str:
    command = [sys.executable, "-c", HOLD, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_held_by_one_process_is_refused_to_another(tmp_path: Path):
    root = tmp_path / "run"
    with Run(root).locked():
        assert hold_elsewhere(root) == f"another cream process is using {root}"
        with pytest.raises(RunError, match="another cream process"), Run(root).locked():
            pass
    assert hold_elsewhere(root) == "held"


def test_a_run_is_given_back_after_an_error_and_when_its_process_is_killed(tmp_path: Path):
    root = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), Run(root).locked():
        raise ZeroDivisionError
    assert hold_elsewhere(root) == "held"

    killed = HOLD.replace('print("held")', "os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", killed, str(root)], check=False).returncode == -9
    assert hold_elsewhere(root) == "held"


RECIPE_VALUES = {"name": "a", "iterations": 1, "method": {"name": "cream", "level": "set"}}


def claim(root: Path, values: dict) -> None:
    root.mkdir(exist_ok=True)
    with Run(root).locked():
        plan = StoredPlan(stages=(), parts={})
        Run(root).claim(values, plan, may_change=lambda key: key == "iterations")


def test_a_run_keeps_its_recipe(tmp_path: Path):
    claim(tmp_path / "run", RECIPE_VALUES)
    claim(tmp_path / "run", RECIPE_VALUES)

    assert read_yaml(tmp_path / "run" / "recipe.yaml") == RECIPE_VALUES


def test_keys_that_may_change_are_recorded_anew(tmp_path: Path):
    claim(tmp_path / "run", RECIPE_VALUES)
    claim(tmp_path / "run", {**RECIPE_VALUES, "iterations": 3})

    assert read_yaml(tmp_path / "run" / "recipe.yaml")["iterations"] == 3


def test_another_recipe_is_refused_with_the_keys_that_differ_and_the_first_one_kept(
    tmp_path: Path,
):
    claim(tmp_path / "run", RECIPE_VALUES)
    other = {"name": "a", "iterations": 2, "method": {"name": "cream", "level": "sample"}}

    with pytest.raises(
        RunError, match=r"another recipe \(method\.level: 'set' there, 'sample' now\); set run_dir"
    ):
        claim(tmp_path / "run", other)
    assert read_yaml(tmp_path / "run" / "recipe.yaml") == RECIPE_VALUES


def test_a_key_that_one_recipe_lacks_differs_unless_it_is_null(tmp_path: Path):
    """A later version of Cream may add an option whose default is "none": old runs stay usable."""
    claim(tmp_path / "run", RECIPE_VALUES)
    claim(tmp_path / "run", {**RECIPE_VALUES, "new": None})

    with pytest.raises(RunError, match="new: None there, 0 now"):
        claim(tmp_path / "run", {**RECIPE_VALUES, "new": 0})


def test_many_differences_are_cut_to_five(tmp_path: Path):
    claim(tmp_path / "run", RECIPE_VALUES)
    with pytest.raises(RunError, match=r"d: None there, 1 now; e: .*; \.\.\.\); set run_dir"):
        claim(tmp_path / "run", {**RECIPE_VALUES, **dict.fromkeys("abcdefg", 1)})


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(RunError, match=r"is not empty and holds no run \(found thesis\.tex\)"):
        claim(tmp_path, RECIPE_VALUES)
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_killed_first_write_of_the_recipe_does_not_make_the_folder_strange(tmp_path: Path):
    (tmp_path / ".tmp-killed.yaml").write_text("name")

    claim(tmp_path, RECIPE_VALUES)

    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "plan.json", "recipe.yaml"]


def test_a_recipe_edited_into_something_else_is_named(tmp_path: Path):
    claim(tmp_path / "run", RECIPE_VALUES)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    (tmp_path / "run" / "recipe.yaml").write_text("- 1\n")

    with pytest.raises(RunError, match=r"recipe\.yaml is damaged, or was changed by hand"):
        claim(tmp_path / "run", {**RECIPE_VALUES, "seed": 77})
    claim(tmp_path / "run", RECIPE_VALUES)  # by the same recipe it is mended
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


def test_a_record_on_disk_says_what_made_it(tmp_path: Path):
    finished_stage(tmp_path / "s")
    record = json.loads((tmp_path / "s" / DONE).read_text())

    assert record["inputs"] == INPUTS
    assert record["files"] == {
        name: {
            "bytes": (tmp_path / "s" / name).stat().st_size,
            "mtime_ns": (tmp_path / "s" / name).stat().st_mtime_ns,
            "blake2b": hashlib.blake2b(
                (tmp_path / "s" / name).read_bytes(), digest_size=32
            ).hexdigest(),
        }
        for name in ("part-00000.parquet", "part-00001.parquet")
    }
