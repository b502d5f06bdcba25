import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.artifact import Artifact, File, canonical, digest_of, key_of


def test_a_digest_changes_with_each_of_its_parts_and_with_nothing_else():
    base = {
        "kind": "dataset",
        "key": "k",
        "spec": {},
        "version": 1,
        "parents": {},
        "files": (File("a", "1" * 64, 3),),
    }
    one = Artifact(**base)
    assert one.digest == Artifact(**{**base, "summary": {"rows": 3}, "created_s": 5.0}).digest
    assert one.digest != Artifact(**{**base, "files": (File("a", "2" * 64, 3),)}).digest
    assert one.digest != Artifact(**{**base, "files": (File("b", "1" * 64, 3),)}).digest
    assert one.digest != Artifact(**{**base, "key": "other"}).digest


def test_a_key_changes_with_each_of_its_parts():
    keys = {
        key_of("model", {"a": 1}, 1, {"dataset": "d"}),
        key_of("report", {"a": 1}, 1, {"dataset": "d"}),
        key_of("model", {"a": 2}, 1, {"dataset": "d"}),
        key_of("model", {"a": 1}, 2, {"dataset": "d"}),
        key_of("model", {"a": 1}, 1, {"dataset": "e"}),
        key_of("model", {"a": 1}, 1, {"base": "d"}),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), float("inf"), object(), b"x", {1: 2}, [object()]])
def test_a_value_without_stable_identity_is_refused(value):
    with pytest.raises(TypeError):
        canonical({"x": value})


def test_a_lone_surrogate_is_refused():
    with pytest.raises(ValueError):
        canonical("\ud800")


def test_one_and_one_point_nought_and_true_differ():
    assert len({digest_of(1), digest_of(1.0), digest_of(True), digest_of("1")}) == 4


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_identity_does_not_depend_on_the_order_of_keys(value):
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))
