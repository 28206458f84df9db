"""Answers in LaTeX by math-verify, where it is installed; without it the remedy is named."""

import importlib.util
import sys

import pytest

from cream.data.verifiers import MathVerify, PromptVerifier
from cream.errors import DependencyError
from cream.types import Message, Prompt


def prompt(answer):
    return Prompt("p", (Message("user", "?"),), "t", answer, {"verifier": "math_verify"})


@pytest.mark.parametrize(
    ("answer", "completion", "correct"),
    [
        (r"\frac{\pi}{2}", r"so it is $\boxed{\frac{\pi}{2}}$", True),
        (r"\frac{\pi}{2}", r"so it is $\boxed{0.5\pi}$", True),
        (r"\frac{\pi}{2}", r"so it is $\boxed{2}$", False),
        (r"2\pi", r"\boxed{2}", False),
        (r"x^2+1", r"\boxed{1 + x^2}", True),
        ("12500", r"\boxed{12{,}500}", True),
        ("12500", r"\boxed{12}", False),
        (r"We find $\boxed{\sqrt{2}}$.", r"$\sqrt{2}$", True),
    ],
)
def test_expressions_are_compared_as_expressions(answer, completion, correct):
    pytest.importorskip("math_verify")

    verdict = PromptVerifier().verify(prompt(answer), completion)

    assert verdict is not None
    assert verdict.correct is correct


def test_a_completion_without_an_expression_is_unparsed():
    pytest.importorskip("math_verify")

    verdict = MathVerify().verify(prompt("2"), "I do not know")

    assert verdict is not None
    assert (verdict.correct, verdict.extracted) == (False, None)
    assert MathVerify().verify(prompt(None), "2") is None


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is not None, reason="it is installed")
def test_without_the_package_the_extra_is_named():
    assert "math_verify" not in sys.modules
    with pytest.raises(DependencyError, match=r"pip install 'cream-align\[math\]'"):
        MathVerify()
