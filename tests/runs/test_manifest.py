"""The manifest says what made a run, without saying who."""

import json
import platform
from importlib import metadata

import pytest

import cream
from cream.errors import RunError
from cream.runs.manifest import (
    MadeBy,
    build_manifest,
    describe_environment,
    last_made_by,
    read_manifest,
    record_opening,
)

HERE = MadeBy(
    cream="1",
    results=1,
    torch="2",
    transformers="5",
    engine="torch",
    dtype="float32",
    training_dtype="float32",
    device="cpu",
    threads=1,
    kernels=False,
)


def test_versions_are_those_installed_and_absent_packages_are_null(monkeypatch):
    monkeypatch.setattr("cream.runs.manifest.PACKAGES", ("numpy", "no-such-package"))
    environment = describe_environment()

    assert environment["packages"] == {
        "numpy": metadata.version("numpy"),
        "no-such-package": None,
    }
    assert environment["cream"] == cream.__version__
    assert environment["python"] == platform.python_version()


def test_a_manifest_names_command_seed_and_inputs(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/cream", "run", "r.yaml", "--set", "seed=3"])
    manifest = build_manifest({"seed": 3, "name": "a"}, {"M0": "abc"}, HERE)

    assert manifest["command"] == ["cream", "run", "r.yaml", "--set", "seed=3"]
    assert manifest["seed"] == 3
    assert manifest["inputs"] == {"M0": "abc"}


def test_a_manifest_tells_nothing_about_the_person(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/someone-unlikely/bin/cream", "run"])
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "someone-unlikely")

    assert "someone-unlikely" not in json.dumps(build_manifest({"seed": 0}, {}, HERE))


def test_what_is_different_is_said_one_thing_each():
    now = HERE.model_copy(update={"threads": 4, "torch": "3"})

    assert HERE.changes(HERE) == {}
    assert HERE.changes(now) == {"torch": "torch 3 (before: 2)", "threads": "threads 4 (before: 1)"}


def test_a_manifest_keeps_its_first_opening_and_lists_those_that_differ(tmp_path, monkeypatch):
    def opened(command: str, made_by: MadeBy) -> None:
        monkeypatch.setattr("sys.argv", ["cream", command])
        record_opening(tmp_path, build_manifest({"seed": 3}, {"M0": "abc"}, made_by))

    four = HERE.model_copy(update={"threads": 4})
    assert last_made_by(tmp_path) is None
    opened("first", HERE)
    text = (tmp_path / "manifest.json").read_bytes()
    opened("second", HERE)  # another command alone is no difference
    assert (tmp_path / "manifest.json").read_bytes() == text
    opened("third", four)
    opened("fourth", four)
    opened("fifth", HERE)

    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest["command"] == ["cream", "first"]
    assert manifest["made_by"]["threads"] == 1
    assert [o["command"][1] for o in manifest["later_openings"]] == ["third", "fifth"]
    assert last_made_by(tmp_path) == HERE


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"later_openings": 3}', '{"made_by": {"cream": 1}}', '{"made_by": 3}']
)
def test_a_manifest_changed_by_hand_is_one_sentence(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(RunError, match=r"manifest\.json"):
        last_made_by(tmp_path)
