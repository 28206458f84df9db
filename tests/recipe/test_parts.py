"""Parts name the columns they read, so that nothing else needs to be computed or loaded."""

from pydantic import TypeAdapter

from cream.recipe.likelihood import ChosenNll
from cream.recipe.methods import MethodConfig
from cream.recipe.objectives import Dpo
from cream.recipe.parts import Agreement, BestWorst, LogpQuantity, MethodParts, ScoreQuantity

PAIRING, OBJECTIVE = BestWorst(), Dpo()


def test_only_implicit_units_read_the_reference():
    assert LogpQuantity(unit="implicit", model="M2").columns == ("M2", "M0")
    assert LogpQuantity(unit="implicit_per_token", model="M2", reference="M1").columns == (
        "M2",
        "M1",
    )
    assert LogpQuantity(unit="likelihood", model="M2").columns == ("M2",)
    assert LogpQuantity(unit="mean_likelihood", model="M2").columns == ("M2",)


def test_columns_are_named_once_and_what_is_only_reported_is_kept_apart():
    parts = MethodParts(
        reward=ScoreQuantity(column="verifier"),
        tie_break=LogpQuantity(unit="implicit", model="M2"),
        agreement=Agreement(
            first=LogpQuantity(unit="implicit", model="M2"),
            second=ScoreQuantity(column="judge"),
        ),
        reported=Agreement(
            first=LogpQuantity(unit="likelihood", model="M5"),
            second=ScoreQuantity(column="votes"),
        ),
        pairing=PAIRING,
        objective=OBJECTIVE,
    )

    assert parts.logp_columns == ("M2", "M0")
    assert parts.score_columns == ("verifier", "judge")
    assert parts.reported_columns == ("M5",)


def test_parts_without_anything_reported_read_nothing_for_it():
    parts = MethodParts(
        reward=LogpQuantity(unit="implicit", model="M1"), pairing=PAIRING, objective=OBJECTIVE
    )

    assert parts.reported_columns == ()
    assert parts.score_columns == ()
    assert parts.logp_columns == ("M1", "M0")


def test_quantities_have_short_names_for_tables():
    assert str(LogpQuantity(unit="mean_likelihood", model="M0")) == "mean_likelihood(M0)"
    assert str(ScoreQuantity(column="verifier")) == "verifier"


def test_every_method_has_parts_whatever_its_objective():
    """Also one that trains by likelihood alone, whose objective knows no level of C."""
    unanimous = TypeAdapter(MethodConfig).validate_python({"name": "unanimous"})

    for t in (1, 2):
        assert isinstance(unanimous.parts(t).objective, ChosenNll)
