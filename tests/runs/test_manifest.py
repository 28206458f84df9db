"""The manifest says what made a run, without saying who."""

import json
import platform
from importlib import metadata

import cream
from cream.runs.manifest import build_manifest, describe_environment


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
    manifest = build_manifest({"seed": 3, "name": "a"}, {"M0": "abc"})

    assert manifest["command"] == ["cream", "run", "r.yaml", "--set", "seed=3"]
    assert manifest["seed"] == 3
    assert manifest["inputs"] == {"M0": "abc"}


def test_a_manifest_tells_nothing_about_the_person(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/someone-unlikely/bin/cream", "run"])
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "someone-unlikely")

    assert "someone-unlikely" not in json.dumps(build_manifest({"seed": 0}, {}))
