"""Records survive the way to disk and back; columns find their completions by id."""

import numpy as np
import pyarrow as pa
import pytest

from cream.errors import RunError
from cream.runs.tables import (
    EVALUATION_SCHEMA,
    completions_from_table,
    completions_to_table,
    hash_ids,
    interleave,
    join_by_id,
    matrix_from_tables,
    pairs_from_table,
    pairs_to_table,
    read_metadata,
    with_metadata,
)
from cream.types import Completion, FinishReason, Origin, PairTable


def completion(name: str, ids: tuple[int, ...] = (1, 2), **changes) -> Completion:
    values = {
        "prompt_id": name.split("-")[0],
        "completion_id": name,
        "token_ids": ids,
        "text": f"text of {name} é\n",
        "finish_reason": FinishReason.STOP,
        "seed": 2**63 - 1,
        "sampling_logp": -0.1,
        "origin": Origin.POLICY,
    }
    return Completion(**{**values, **changes})


def test_completions_come_back_as_they_were():
    completions = [
        completion("a-0"),
        completion("a-1", (), finish_reason=FinishReason.LENGTH, seed=0),
        completion("b-0", (2**31 - 1,), sampling_logp=None, origin=Origin.DATA),
    ]

    assert completions_from_table(completions_to_table(completions)) == completions
    assert completions_from_table(completions_to_table([])) == []


def test_ids_are_hashed_over_every_token_the_last_included():
    assert hash_ids((5, 6, 2)) == hash_ids([5, 6, 2]) == 3751508720909275512
    different = [(), (0,), (5,), (5, 6), (5, 6, 2), (6, 5, 2), (56, 2), (5, 6, 2, 0)]
    assert len({hash_ids(ids) for ids in different}) == len(different)


def test_equal_ids_are_duplicates_whatever_their_texts():
    table = completions_to_table([completion("a-0"), completion("a-1", text="other")])

    assert table["ids_hash"][0] == table["ids_hash"][1]


# --- joining sets and columns ---


def test_sets_of_the_same_prompts_are_joined_prompt_by_prompt_the_first_set_first():
    own = completions_to_table([completion("b-0"), completion("b-1"), completion("a-0")])
    past = completions_to_table([completion("a-past-0"), completion("b-past-0")])
    joined = interleave([own, past])

    assert joined["completion_id"].to_pylist() == ["b-0", "b-1", "b-past-0", "a-0", "a-past-0"]
    assert interleave([own]) is own


def test_sets_of_different_prompts_are_not_joined():
    tables = [completions_to_table([completion(f"{name}-0")]) for name in "ab"]

    with pytest.raises(RunError, match="do not answer the same prompts"):
        interleave(tables)


LEFT = pa.table({"completion_id": ["a", "b", "c"], "x": [1, 2, 3]})


def test_a_column_is_joined_by_id_whatever_the_order_of_its_rows():
    column = pa.table({"completion_id": ["c", "a", "b"], "y": [30.0, 10.0, 20.0], "z": [3, 1, 2]})
    joined = join_by_id(LEFT, column, ["y"])

    assert joined.to_pydict() == {
        "completion_id": ["a", "b", "c"],
        "x": [1, 2, 3],
        "y": [10.0, 20.0, 30.0],
    }


def test_absent_values_stay_absent_through_a_join():
    column = pa.table({"completion_id": ["b", "c", "a"], "y": pa.array([None, 3.0, 1.0])})

    assert join_by_id(LEFT, column, ["y"])["y"].to_pylist() == [1.0, None, 3.0]


@pytest.mark.parametrize(
    "ids", [["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"], ["a", "b", "c", "c"], []]
)
def test_a_column_of_other_completions_is_refused(ids: list[str]):
    column = pa.table({"completion_id": pa.array(ids, pa.string()), "y": [0.0] * len(ids)})

    with pytest.raises(RunError, match=r"columns y hold .* do not match the 3 sampled ones by id"):
        join_by_id(LEFT, column, ["y"])


def test_metadata_is_kept_beside_other_metadata():
    table = LEFT.replace_schema_metadata({b"seconds": b"1"})
    marked = with_metadata(table, {"noise": {"M0": 1e-6}})

    assert read_metadata(marked) == {"noise": {"M0": 1e-6}}
    assert marked.schema.metadata[b"seconds"] == b"1"
    assert read_metadata(LEFT) == {}


# --- the score matrix ---


def matrix_part(rows: list[tuple], noise: dict[str, float]) -> pa.Table:
    """Rows: prompt, completion, tokens, finish reason, M0, M1, verifier."""
    columns = list(zip(*rows, strict=True))
    table = pa.table(
        {
            "prompt_id": pa.array(columns[0], pa.string()),
            "completion_id": pa.array(columns[1], pa.string()),
            "ids_hash": pa.array([hash_ids(ids) for ids in columns[2]], pa.int64()),
            "num_tokens": pa.array([len(ids) for ids in columns[2]], pa.int32()),
            "finish_reason": pa.array(columns[3], pa.string()),
            "logps_M0": pa.array(columns[4], pa.float64()),
            "logps_M1": pa.array(columns[5], pa.float64()),
            "verifier": pa.array(columns[6], pa.float64()),
        }
    )
    return with_metadata(table, {"noise": noise})


NOISE = {"M0": 0.25, "M1": 0.5}
PARTS = [
    matrix_part(
        [
            ("q", "q-0", (1, 2), "stop", -1.0, -2.0, 1.0),
            ("q", "q-1", (1,), "length", -3.0, None, 0.0),
        ],
        NOISE,
    ),
    matrix_part([("p", "p-0", (4, 5, 6), "stop", -5.0, -6.0, None)], NOISE),
]


def test_the_score_matrix_is_what_its_parts_hold():
    matrix = matrix_from_tables(PARTS, ["M1", "M0"], ["verifier"])

    assert matrix.prompt_ids.tolist() == ["q", "p"]
    assert matrix.group_offsets.tolist() == [0, 2, 3]
    assert matrix.completion_ids.tolist() == ["q-0", "q-1", "p-0"]
    assert matrix.num_tokens.tolist() == [2, 1, 3]
    assert matrix.truncated.tolist() == [False, True, False]
    assert matrix.ids_hash.tolist() == [hash_ids(i) for i in ((1, 2), (1,), (4, 5, 6))]
    np.testing.assert_array_equal(matrix.logps["M0"], [-1.0, -3.0, -5.0])
    np.testing.assert_array_equal(matrix.logps["M1"], [-2.0, np.nan, -6.0])
    np.testing.assert_array_equal(matrix.scores["verifier"], [1.0, 0.0, np.nan])
    assert matrix.noise == {"M0": 0.25, "M1": 0.5}


def test_only_the_columns_named_are_read():
    parts = [part.drop_columns(["logps_M1", "verifier"]) for part in PARTS]
    matrix = matrix_from_tables(parts, ["M0"], [])

    assert set(matrix.logps) == set(matrix.noise) == {"M0"}
    assert matrix.scores == {}
    with pytest.raises(KeyError, match="logps_M1"):
        matrix_from_tables(parts, ["M1"], [])


def test_a_prompt_split_over_two_places_is_refused():
    """Groups are runs of rows: taken as two groups, the prompt would be paired twice."""
    with pytest.raises(RunError, match="not contiguous"):
        matrix_from_tables([PARTS[0], PARTS[1], PARTS[0]], ["M0"], [])


def test_a_prompt_may_continue_in_the_next_part():
    matrix = matrix_from_tables([PARTS[0].slice(0, 1), PARTS[0].slice(1), PARTS[1]], ["M0"], [])

    assert matrix.group_offsets.tolist() == [0, 2, 3]


# --- pairs and evaluations ---


def test_pairs_come_back_as_they_were():
    pairs = PairTable(
        prompt_ids=np.array(["p", "q"], dtype=object),
        chosen_ids=np.array(["p-0", "q-3"], dtype=object),
        rejected_ids=np.array(["p-1", "q-0"], dtype=object),
        chosen_reward=np.array([0.5, -1.0]),
        rejected_reward=np.array([0.1, -2.0]),
        consistency=np.array([0.75, 1.0]),
        weight=np.array([1.0, 0.25]),
    )
    back = pairs_from_table(pairs_to_table(pairs))

    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert getattr(back, name).tolist() == getattr(pairs, name).tolist()
    for name in ("chosen_reward", "rejected_reward", "consistency", "weight"):
        np.testing.assert_array_equal(getattr(back, name), getattr(pairs, name))
    assert len(back) == 2


def test_parts_of_an_evaluation_fit_together_when_one_has_no_extracted_answer():
    """Inferred from values, a column of nothing but None has no type and cannot be appended."""
    row = {
        "prompt_id": "p",
        "task": "t",
        "index": -1,
        "text": "",
        "finish_reason": "stop",
        "num_tokens": 1,
        "correct": False,
        "partial_credit": 0.0,
    }
    parts = [
        pa.Table.from_pylist([{**row, "extracted": answer}], schema=EVALUATION_SCHEMA)
        for answer in (None, "7")
    ]

    assert pa.concat_tables(parts)["extracted"].to_pylist() == [None, "7"]


def test_label_columns_become_codes_and_absent_ones_are_told_apart():
    """Codes are over the whole matrix, so equal answers in different parts are equal."""
    parts = [
        part.append_column("extracted", pa.array(texts, pa.string()))
        for part, texts in zip(PARTS, (["7", None], ["7"]), strict=True)
    ]
    labels = matrix_from_tables(parts, ["M0"], [], ["extracted"]).labels["extracted"]

    assert labels[0] == labels[2] >= 0
    assert labels[1] == -1
