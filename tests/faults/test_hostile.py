"""Strangers' models, data and folders: nothing is followed, run, shown or published unasked."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cream.cli.console import ConsoleProgress, SafeConsole
from cream.errors import ModelError, RecipeError, RunError
from cream.loop.card import licence_of
from cream.models.fingerprints import model_fingerprint
from cream.models.folders import check_model_folder
from cream.models.publishing import prepare_upload
from cream.models.templates import MAX_SECONDS, Template
from cream.recipe import Recipe
from cream.recipe.load import apply_overrides, parse_recipe, parse_yaml
from cream.report.markup import text as html_text
from cream.report.terminal import readable
from cream.runs.files import locked, remove_folder
from cream.runs.manifest import without_local_paths
from cream.runs.store import Run
from cream.testing import tiny_model_folder, tiny_tokenizer
from cream.types import Message

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


# --- files of models ---


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", "", "..", ".x", 3],
)
def test_an_index_lists_plain_names_in_its_own_folder(tiny_inputs: Path, tmp_path: Path, name: Any):
    folder = Path(shutil.copytree(tiny_inputs / "model", tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    shutil.copy(folder / "part.safetensors", tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors", "b": name}}))

    with pytest.raises(ModelError, match="no plain name of a safetensors file"):
        check_model_folder(folder)


def test_every_shard_is_part_of_the_fingerprint(tiny_inputs: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_inputs / "model", tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    shutil.copy(folder / "part-1.safetensors", folder / "part-2.safetensors")
    names = {"a": "part-1.safetensors", "b": "part-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    before = model_fingerprint(folder)
    with (folder / "part-2.safetensors").open("ab") as stream:
        stream.write(b"x")

    assert model_fingerprint(folder) != before


def test_only_what_belongs_to_a_model_is_published(finished_run: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished_run / "models" / "M1", tmp_path / "M1"))
    for name in ("notes.txt", "optimizer.pt", ".env", "id_rsa", "train.jsonl", "evil.py"):
        (folder / name).write_text("secret")
    (folder / "tokenizer_extra.json").symlink_to("/etc/passwd")
    upload = prepare_upload(folder, "card", "ada/tiny")

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*upload.files}
    assert {"notes.txt", "optimizer.pt", ".env", "id_rsa", "train.jsonl", "evil.py"} <= {
        *upload.left_out
    }
    assert "tokenizer_extra.json" in upload.left_out
    assert not {*upload.files} & {*upload.left_out}


# --- links ---


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)

    with pytest.raises(RunError, match=r"\.lock cannot be opened"), Run(tmp_path / "run").locked():
        pass
    assert victim.read_text() == "precious"


def test_a_lock_keeps_its_content_and_is_held_once(tmp_path: Path):
    path = tmp_path / ".lock"
    path.write_text("kept")
    with locked(path):
        with pytest.raises(RunError, match="another cream process"), locked(path):
            pass
        assert path.read_text() == "kept"
    with locked(path):
        pass


@pytest.mark.parametrize("name", ["models", "models/M1", "iteration-1", "iteration-1/train", "x"])
def test_a_run_with_a_link_out_of_it_is_refused(
    run_copy: Path, tmp_path: Path, name: str, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    outside = tmp_path / "outside"
    if (run_copy / name).exists():
        (run_copy / name).rename(outside)
    else:
        outside.mkdir()
    (run_copy / name).symlink_to(outside)
    before = sorted(outside.rglob("*"))

    with pytest.raises(RunError, match=rf"{name} is a link that leads out of"):
        run_whole(tiny_recipe(run_copy, "keep_checkpoints=last"))
    assert sorted(outside.rglob("*")) == before


def test_a_link_within_the_run_and_a_run_behind_a_link_are_fine(run_copy: Path, tmp_path: Path):
    (run_copy / "models" / "best").symlink_to("M3")
    (tmp_path / "link").symlink_to(run_copy)

    with Run(tmp_path / "link").locked():
        pass


def test_deleting_a_link_leaves_what_it_leads_to(tmp_path: Path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("a")
    (tmp_path / "link").symlink_to("kept")
    remove_folder(tmp_path / "link")

    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept" / "a").exists()


# --- what is told ---

HOSTILE = "a\x1b[2Jb\u202ec\x9bd"
SHOWN = "a\\x1b[2Jb\\u202ec\\x9bd"


def test_no_text_acts_on_a_terminal(capsys: pytest.CaptureFixture[str]):
    console = SafeConsole(width=300, highlight=False)
    progress = ConsoleProgress(SafeConsole(width=300, highlight=False))
    console.print(HOSTILE)
    console.print(f"[bold]{HOSTILE}[/bold]")
    progress.note(HOSTILE)
    progress.start(HOSTILE, 1, "prompts")
    progress.advance(1)
    progress.finish(HOSTILE)
    out = capsys.readouterr().out

    assert not {"\x1b", "\u202e", "\x9b"} & {*out}
    assert out.count(SHOWN) == 5
    assert f"[bold]{SHOWN}[/bold]" in out


def test_an_error_with_a_hostile_name_is_shown_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from cream.cli import main

    path = tmp_path / f"{HOSTILE}.yaml"
    monkeypatch.setattr("sys.argv", ["cream", "run", str(path)])
    with pytest.raises(SystemExit):
        main()
    err = capsys.readouterr().err

    assert SHOWN in err
    assert not {"\x1b", "\u202e", "\x9b"} & {*err}


def test_a_message_keeps_its_lines_and_letters():
    assert readable("Grüße\n  → C:\\x 🙂") == "Grüße\n  → C:\\x 🙂"
    assert readable(f"{HOSTILE}\n{HOSTILE}") == f"{SHOWN}\n{SHOWN}"


def test_the_page_has_the_same_characters_as_the_terminal():
    assert html_text("a\u202eb\u200ec\x07\n\t<é>") == "a⟨U+202E⟩b⟨U+200E⟩c␇\n\t&lt;é&gt;"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/ada/models/tiny", "<local>/tiny"),
        ("~/models/tiny/", "<local>/tiny"),
        ("~ada/x", "<local>/x"),
        ("C:\\Users\\ada\\x", "<local>/x"),
        ("file:///home/ada/runs", "<local>/runs"),
        ("model.name=/home/ada/tiny", "model.name=<local>/tiny"),
        ("org/model", "org/model"),
        ("data/seed.jsonl", "data/seed.jsonl"),
        ("a/b = c", "a/b = c"),
        ("/one\n/two", "/one\n/two"),
        (3, 3),
    ],
)
def test_of_a_local_path_the_last_name_is_published(value: Any, shown: Any):
    assert without_local_paths({"a": [value]}) == {"a": [shown]}


def test_cards_pages_and_manifests_tell_no_place_of_the_maker(
    finished_run: Path, tiny_inputs: Path, tmp_path: Path
):
    from cream.report.page import write_page

    page = write_page([finished_run], tmp_path / "page.html").path
    files = [page, finished_run / "manifest.json", *finished_run.glob("models/*/README.md")]

    assert len(files) == 5
    for path in files:
        told = path.read_text(encoding="utf-8")
        assert str(tiny_inputs) not in told, path
        assert str(finished_run) not in told, path


def test_no_secret_is_recorded(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, monkeypatch: pytest.MonkeyPatch
):
    secret = "s3cr3t-0123456789"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    root = run_whole(tiny_recipe(tmp_path / "run", "iterations=1"))

    assert not [p for p in root.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    with pytest.raises(RecipeError, match="environment"):
        tiny_recipe(tmp_path / "b", "trackers=[{name: mlflow, uri: 'http://ada:pw@host/'}]")


# --- templates and YAML ---

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LOOP, f"takes more than {MAX_SECONDS:g} s"),
        ("{{ 'a' * 99999999999 }}", ""),
        ("{{ ('a' * 99999) | center(99999999999) }}", ""),
        ("{{ messages[0]['content'] * 2000000 }}", "characters"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", ""),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ""),
        ("{{ " + "- " * 300 + "1 }}", "nested more than 50 deep"),
        ("{% if " + "not " * 300 + "a %}{% endif %}", "nested more than 50 deep"),
        ("{" * 100_000, ""),
        ("{{ a.b.c.d }}", "undefined"),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_a_template_ends_soon_and_in_one_sentence(template: str, why: str):
    begun = time.process_time()
    made = Template(tiny_tokenizer(), template)

    with pytest.raises(ModelError, match=f"chat template refuses.*{why}"):
        made.render([Message("user", "hello")], generation_prompt=True)
    assert time.process_time() - begun < 4


def test_rules_of_dashes_are_no_nested_expression():
    line = "-" * 300
    text = f"{line}{{{{ '{line}' + messages[0]['content'] }}}}{line}"

    written = Template(tiny_tokenizer(), text).render(
        [Message("user", "hello")], generation_prompt=True
    )
    assert written == f"{line}{line}hello{line}"


def test_the_limits_of_a_template_are_taken_back():
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(ModelError):
        Template(tiny_tokenizer(), LOOP).render([Message("user", "a")], generation_prompt=True)

    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "values, aliases repeated"),
        ("[" * 20_000, "nested too deeply|not valid YAML"),
        ("a: " * 20_000, "not valid YAML"),
        ("a: b\n" * 100_000, "characters"),
        ("a: " + "9" * 5000, "a value is none"),
        ("a: !!int x", "a value is none"),
        ("a: !!timestamp x", "a value is none"),
        ("a: 2020-99-99", "a value is none"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: &a [*a]", "anchor stands inside itself"),
    ],
)
def test_yaml_ends_soon_and_in_one_sentence(text: str, why: str):
    begun = time.process_time()

    with pytest.raises(RecipeError, match=why):
        parse_yaml(text)
    assert time.process_time() - begun < 4


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999"])
def test_a_setting_is_a_finite_number(value: str):
    with pytest.raises(RecipeError, match=r"sampling\.temperature"):
        parse_recipe(
            "name: a\niterations: 1\ndata: {}\n", [f"sampling.temperature={value}"], source="r"
        )


# --- caches ---


@pytest.mark.parametrize("damage", ["mode", "bit", "added"])
def test_a_compiled_library_that_others_could_have_changed_is_compiled_again(
    tmp_path: Path, damage: str
):
    from cream.kernels.library import build

    script = tmp_path / "fakecc"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo fakecc; exit 0; fi\n'
        f"echo compiled >> {tmp_path}/log\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo library > "$2"\n'
    )
    script.chmod(0o755)
    cache = tmp_path / "cache"
    library = build(cache, [str(script)])
    assert (cache.stat().st_mode & 0o777) == 0o700
    if damage == "mode":
        cache.chmod(0o777)
    else:
        library.write_text("another" if damage == "bit" else "")

    assert build(cache, [str(script)]).read_text() == "library\n"
    assert (cache.stat().st_mode & 0o777) == 0o700
    assert (tmp_path / "log").read_text() == "compiled\n" * 2
    build(cache, [str(script)])
    assert (tmp_path / "log").read_text() == "compiled\n" * 2


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder to another user needs root")
def test_a_library_in_somebody_elses_folder_is_not_loaded(tmp_path: Path):
    from cream.kernels.library import BuildError, build

    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(BuildError, match="not this user's own"):
        build(tmp_path / "cache", ["true"])


# --- found by a million random inputs ---


def test_a_shard_with_a_name_longer_than_any_files_is_missing(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "m" * 5000 + ".safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ModelError, match=r"lacks m{80}\. The copy is incomplete"):
        check_model_folder(folder)


@pytest.mark.parametrize("header", ["license: !!int x\n", "license: " + "{" * 5000, "a: [*b]\n"])
def test_a_card_that_is_no_yaml_states_no_licence(header: str, tmp_path: Path):
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n# A model\n")

    assert licence_of(str(tmp_path)) is None


@pytest.mark.parametrize("place", ["1" * 5001, "7", "-1", "²"])
def test_a_place_that_is_not_in_a_list_is_named(place: str):
    values = {"data": {"seed": {"sources": [{"source": "file"}]}}}

    with pytest.raises(RecipeError, match="is not a position in a list of 1"):
        apply_overrides(values, [f"data.seed.sources.{place}.path=a.jsonl"])
