"""A hook of mkdocs: links that lead out of docs/ (to source files) become plain text.

They work where the repository is browsed; `tests/test_docs.py` checks that they lead somewhere.
"""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs with every page."""

    def plain(match: re.Match[str]) -> str:
        target = (DOCS / page.file.src_uri).parent / match[2].partition("#")[0]
        return match[0] if target.resolve().is_relative_to(DOCS) else match[1]

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)", plain, markdown)
