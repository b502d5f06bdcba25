"""The table of verbs: bounded wishes that name no place, App's own arguments, permissions that there are."""

from inspect import signature
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.app.app import App
from luthier.core.verbs import VERBS, Sent, Written
from luthier.governance.access import PERMISSIONS

ALL = list(VERBS.values())


@pytest.mark.parametrize("verb", ALL, ids=list(VERBS))
def test_a_wish_has_the_arguments_of_apps_verb_in_its_order(verb, tmp_path):
    taken = list(signature(getattr(getattr(App(tmp_path, {}), verb.noun), verb.method)).parameters)
    wished = [*verb.wish.model_fields]
    if verb.name == "recipes.run":  # reasons for a waiver go with it; App takes them as one object
        wished.remove("because")
    if verb.into is not None:
        assert taken.index(verb.into) == (2 if verb.name == "models.render" else 1)
    positional = [one for one in taken if one in wished]
    assert set(wished) <= set(taken)
    assert wished[:1] == positional[:1]


@pytest.mark.parametrize("verb", ALL, ids=list(VERBS))
def test_who_may_is_known(verb):
    assert verb.permission in PERMISSIONS
    assert verb.permission.endswith((".write", ".decide")) or verb.permission == "feedback" or not verb.long


def bounded(schema, defs):
    """Every text and list of a schema has an end."""
    for one in (schema, *schema.get("anyOf", ())):
        if "$ref" in one:
            yield from bounded(defs[one["$ref"].rpartition("/")[2]], defs)
        if one.get("type") == "string":
            yield "maxLength" in one or "pattern" in one or "enum" in one or "const" in one
        if one.get("type") == "array":
            yield "maxItems" in one
            yield from bounded(one["items"], defs)
        for inner in one.get("properties", {}).values():
            yield from bounded(inner, defs)


@pytest.mark.parametrize("verb", ALL, ids=list(VERBS))
def test_a_wish_is_bounded(verb):
    schema = verb.wish.model_json_schema()
    assert all(bounded(schema, schema.get("$defs", {})))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../b", "a//b", ".hidden", "a/.b", "", "a\\b", "a\nb", "x" * 301]
)
def test_a_name_of_a_file_leads_nowhere(name):
    with pytest.raises(ValidationError):
        Sent(name=name, sha256="0" * 64)
    with pytest.raises(ValidationError):
        Written(text="x", files={name: "0" * 64})
    with pytest.raises(ValidationError):
        Written(text="x", name="a/b.yaml")
    assert Path(Sent(name="june/rows.jsonl", sha256="0" * 64).name).parts == ("june", "rows.jsonl")
