"""A licence is what a card states, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cream.loop.card import licence_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# A model\n", "mit"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("# A model\n\nlicense: mit\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: {broken\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_read_from_the_front_matter_of_the_card(
    card: str, licence: str | None, tmp_path: Path
):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")

    assert licence_of(str(tmp_path)) == licence


def test_nothing_is_guessed_and_the_embedded_model_is_known(tmp_path: Path):
    assert licence_of(str(tmp_path)) is None
    assert licence_of("owner/apache-model") is None
    assert licence_of("smollm2-135m-instruct") == "apache-2.0"
