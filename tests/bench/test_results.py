"""What a run of the benchmark leaves: JSON by its schema, a table, a figure."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from bench_documents import document, row
from rich.console import Console

from cream.bench.results import advantage, draw_figure, print_document


def schema() -> dict[str, Any]:
    text = resources.files("cream").joinpath("schemas/bench.json").read_text(encoding="utf-8")
    return json.loads(text)


def printed(found: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        print_document(console, found)
    return capture.get()


def test_the_schema_describes_a_document_and_nothing_else():
    found = json.loads(json.dumps(document().as_json(), allow_nan=False))

    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(found, schema())
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate({**found, "surprise": 1}, schema())
    found["rows"][0]["ratio"] = "4x"
    with pytest.raises(jsonschema.ValidationError, match="4x"):
        jsonschema.validate(found, schema())


def test_every_row_carries_the_command():
    assert [r["command"] for r in document().as_json()["rows"]] == ["cream bench all"]


def test_a_run_that_ended_before_the_floor_is_valid_and_incomplete():
    found = replace(document(), floor=None, rows=[], points=[], complete=False).as_json()

    jsonschema.validate(found, schema())
    assert "ended early" in printed(replace(document(), complete=False))


def test_the_table_shows_the_ratio_with_its_spread_and_the_floor():
    text = printed(document())

    assert "4.00 [3.00, 5.00]" in text
    assert "50%" in text
    assert "left out: vllm (not given)" in text
    assert "sft/train: 1.5 s" in text
    assert "LOADED" not in text


def test_a_loaded_machine_is_said_in_table_and_figure():
    loaded = replace(document(), rows=[row(), row("b", foreign_cores=1.5)])

    assert "LOADED MACHINE" in printed(loaded)
    assert "MACHINE WAS LOADED" in draw_figure(loaded)
    assert "MACHINE WAS LOADED" not in draw_figure(document())


def test_unknown_load_is_not_shown_as_none():
    assert "unknown" in printed(replace(document(), rows=[row(foreign_cores=None)]))


def test_memory_is_better_where_it_is_smaller():
    """0.25 of the baseline's memory, rounds between 0.2 and 0.5: 4 times better, 2 to 5."""
    memory = replace(row(), better="lower", ratio=0.25, low=0.2, high=0.5)

    assert advantage(memory) == (4.0, 2.0, 5.0)
    assert advantage(row()) == (4.0, 3.0, 5.0)


def test_the_figure_is_an_image_with_a_bar_for_every_row_and_escaped_names():
    root = ElementTree.fromstring(draw_figure(replace(document(), rows=[row(), row("a < b & c")])))
    names = {"svg": "http://www.w3.org/2000/svg"}
    texts = [element.text for element in root.findall("svg:text", names)]

    assert len(root.findall("svg:rect", names)) == 1 + 2
    assert "a < b & c, against generate()" in texts
    assert texts.count("4.00x") == 2


def test_a_longer_bar_is_a_larger_ratio():
    rows = [row(), replace(row("b"), ratio=2.0), replace(row("c"), ratio=0.5, low=0.4, high=0.6)]
    root = ElementTree.fromstring(draw_figure(replace(document(), rows=rows)))
    bars = root.findall("svg:rect", {"svg": "http://www.w3.org/2000/svg"})[1:]
    left = [float(bar.attrib["x"]) for bar in bars]
    width = [float(bar.attrib["width"]) for bar in bars]

    assert width[0] == pytest.approx(2 * width[1], abs=0.2)
    assert left[0] == left[1]
    assert left[2] + width[2] == pytest.approx(left[0], abs=0.2)
