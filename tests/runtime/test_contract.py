"""The contract: it survives JSON unchanged, and damaged ones are refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.contract import PRECISIONS, Contract, DsmRule, ImageRule
from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import ISPRS, ClassTable

PLAIN = Contract(window=256, classes=ISPRS)

PRINTABLE = st.characters(exclude_categories=["C", "Z"])

DSM_RULES = st.one_of(
    st.just(DsmRule()),
    st.tuples(st.floats(0, 49), st.floats(50, 100)).map(lambda p: DsmRule("scene_percentile", *p)),
    st.tuples(st.floats(-500, 0), st.floats(1, 9000)).map(lambda p: DsmRule("range", *p)),
)
CONTRACTS = st.builds(
    Contract,
    window=st.integers(1, 128).map(lambda tiles: 32 * tiles),
    classes=st.integers(1, 255).map(ClassTable.numbered),
    image=st.builds(
        ImageRule,
        bands=st.tuples(*[st.text(PRINTABLE, min_size=1, max_size=12)] * 3),
        full_scale=st.floats(1e-3, 1e6),
    ),
    dsm=DSM_RULES,
    precision=st.sampled_from(PRECISIONS),
    pixel_size=st.none() | st.floats(1e-3, 100),
    provenance=st.dictionaries(
        st.text(max_size=8), st.text(max_size=8) | st.integers(), max_size=4
    ),
)


@given(CONTRACTS)
def test_json_round_trip(contract: Contract) -> None:
    text = contract.to_json()
    assert Contract.from_json(text) == contract
    assert Contract.from_json(text).to_json() == text


def test_what_a_model_file_says() -> None:
    said = json.loads(PLAIN.to_json())
    assert said["format"] == "mfnet-contract/1"
    assert said["window"] == 256
    assert said["image"] == {"bands": ["red", "green", "blue"], "full_scale": 255.0}
    assert said["dsm"] == {"rule": "scene_minmax", "low": 0.0, "high": 100.0}
    assert [row["name"] for row in said["classes"]] == list(ISPRS.names)


def test_contracts_of_other_versions_load() -> None:
    """A pixel size came later; a version that has more fields is read without them."""
    old = PLAIN.to_dict()
    del old["pixel_size"]
    assert Contract.from_dict(old) == PLAIN
    assert Contract.from_dict({**PLAIN.to_dict(), "season": "summer"}) == PLAIN
    assert replace(PLAIN, pixel_size=0.09).to_dict()["pixel_size"] == 0.09


def test_provenance_grows_and_the_rest_stays() -> None:
    second = PLAIN.with_provenance(epoch=3).with_provenance(exporter="x")
    assert second.provenance == {"epoch": 3, "exporter": "x"}
    assert PLAIN.provenance == {}
    assert second.with_provenance() == second


TEXT = PLAIN.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("3", "has format 'int'"),
        ("[]", "has format 'list'"),
        ("{}", "has format None"),
        ('{"format": "other/1"}', "has format 'other/1'"),
        ('{"format": "' + "x" * 5000 + '"}', "has format 'xxx"),
        ("[" * 100_000, "nested too deep"),
        (TEXT[:-1] + ', "a": ' + "[" * 40 + "]" * 40 + "}", "deeper than 32"),
        (TEXT[:-1] + ', "window": 64}', "'window' is there twice"),
        (TEXT[:-1] + ', "a": "' + "x" * (1 << 20) + '"}', "the limit is 1048576"),
        (TEXT.replace("256", "NaN"), "NaN is not a number"),
        (TEXT.replace("255.0", "1e999"), "full scale is inf"),
        (TEXT.replace("256", "32.5"), "malformed"),
        (TEXT.replace("256", '"' + "32" * 4000 + '"'), "malformed"),
        (TEXT.replace("256", "1" + "0" * 400), "window is"),
        (TEXT.replace("building", r"\u001b[2J"), r"class name '\\x1b\[2J'"),
        (TEXT.replace("building", r"\u202e"), "class name"),
        (TEXT.replace('"red"', r'"\u0007"'), "band name"),
        (TEXT.replace("scene_minmax", "x" * 5000), "DSM rule 'xxx"),
        (TEXT.replace("fp32", r"\u001b" * 5000), "precision"),
        (TEXT.replace('"pixel_size":null', '"pixel_size":0'), "pixel size is 0.0 m; expected"),
        (TEXT.replace('"pixel_size":null', '"pixel_size":"wide"'), "malformed"),
    ],
)
def test_texts_that_are_refused_in_one_short_printable_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Contract.from_json(text)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 600


@pytest.mark.parametrize("key", ["window", "classes", "image", "dsm", "precision", "provenance"])
@pytest.mark.parametrize("value", ["missing", None, "nonsense", float("inf")])
def test_missing_and_malformed_fields(key: str, value: Any) -> None:
    data = PLAIN.to_dict()
    if value == "missing":
        del data[key]
    else:
        data[key] = value
    with pytest.raises(ModelError):
        Contract.from_dict(data)


def test_a_number_too_large_for_a_float() -> None:
    data = PLAIN.to_dict()
    data["image"]["full_scale"] = 10**400
    with pytest.raises(ModelError, match="malformed"):
        Contract.from_dict(data)


@pytest.mark.parametrize("window", [0, -256, 31, 100, 4128])
def test_impossible_windows(window: int) -> None:
    with pytest.raises(ModelError, match=f"window is {window} px"):
        Contract(window=window, classes=ISPRS)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: DsmRule("other"), "not one of scene_minmax"),  # type: ignore[arg-type]
        (lambda: DsmRule("range", 5, 5), "not below"),
        (lambda: DsmRule("range", float("nan"), 5), "not below"),
        (lambda: DsmRule("scene_percentile", -1, 99), r"0\.\.100"),
        (lambda: DsmRule("scene_percentile", 1, 101), r"0\.\.100"),
        (lambda: ImageRule(("red", "green")), "names 2 bands"),
        (lambda: ImageRule(full_scale=0), "full scale is 0"),
        (lambda: ImageRule(full_scale=float("nan")), "full scale is nan"),
        (lambda: Contract(256, ISPRS, precision="fp8"), "not one of fp32"),
    ],
)
def test_impossible_rules(rule: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        rule()
