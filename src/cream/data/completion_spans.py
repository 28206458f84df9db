"""Spans of a seed completion in a file: its text in parts, some of which are not trained on.

A row has ``"completion_spans": [{"text": "7. ", "train": false}, {"text": "Wait, ..."}]``; the
texts, joined, are the completion. Nothing counts characters, so that a person can edit a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cream.data.files import checked_text
from cream.errors import DataError

COMPLETION_SPANS = "completion_spans"
"""The column."""
Masked = tuple[tuple[int, int], ...]


def read_spans(spans: Sequence[Any], completion: str | None, where: str) -> tuple[str, Masked]:
    """The completion, and which of its characters are not trained on.

    Args:
        spans: Objects with ``text`` and, unless it is true, ``train``.
        completion: What another column of the row says that the completion is; None: nothing.
        where: Place of the row.

    Raises:
        DataError: A span has another form, nothing is left to train on, or another column says
            otherwise.
    """
    text, masked = "", []
    for span in spans:
        known = isinstance(span, Mapping) and span.keys() <= {"text", "train"}
        said = span.get("text") if known else None
        trained = span.get("train", True) if known else None
        if not isinstance(said, str) or not isinstance(trained, bool):
            raise DataError(
                f"{where}: a span of `{COMPLETION_SPANS}` is an object with `text` and, unless it "
                f"is true, `train` (true or false), found {span!r:.80}; mend it, or say `ignore: "
                f"[{COMPLETION_SPANS}]` in this source"
            )
        if not trained and said:
            masked.append((len(text), len(text) + len(said)))
        text += checked_text(said, where, COMPLETION_SPANS)
    if not text.strip() or sum(end - start for start, end in masked) == len(text):
        raise DataError(f"{where}: `{COMPLETION_SPANS}` leaves nothing to train on")
    if completion not in (None, text):
        raise DataError(
            f"{where}: the texts of `{COMPLETION_SPANS}`, joined, are not the completion; take one "
            "of the two out, or make them agree"
        )
    return text, tuple(masked)


def written_spans(parts: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
    """The column of a row, of texts in order and whether they are trained on."""
    return [{"text": text, "train": trained} for text, trained in parts]
