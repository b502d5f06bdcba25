"""Contracts in the Open Data Contract Standard (Bitol, version 3): written, and read back the same.

    columns.type, required, unique    schema[0].properties[]: logicalType, required, unique
    min, max, pattern, lengths        logicalTypeOptions, where the type has such; else customProperties `luthier.min`, ...
    values                            quality: library metric invalidValues, mustBe 0
    rows                              quality of the schema: library metric rowCount
    fresh                             slaProperties: freshness
    others, broken                    customProperties of the schema

What the standard says beside that (owners, servers, prices, descriptions) is passed over. A check that Luthier would not carry
out is refused: a promise that nobody keeps must not look kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from luthier.core.errors import SpecError

from .contract import ColumnSpec, ContractSpec

VERSION = "v3.1.0"
PREFIX = "luthier."
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "string": {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"},
    **{kind: {"min": "minimum", "max": "maximum"} for kind in ("integer", "number", "date", "timestamp")},
}
"""What each logical type says in its own words."""
ANY = "any"
BOUNDS = ("min", "max", "min_length", "max_length", "pattern")
UNITS = {
    **dict.fromkeys(("d", "day", "days"), 86_400), **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60), **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
}  # fmt: skip
SAME = {"time": "string", "map": "object", "vector": "array"}
"""Types of the standard that are another of ours."""


def to_odcs(contract: ContractSpec, name: str) -> dict[str, Any]:
    """The contract as a document of the standard; `name` is of the source."""
    table: dict[str, Any] = {
        "name": name,
        "physicalType": "table",
        "logicalType": "object",
        "properties": [_property(column, spec) for column, spec in contract.columns.items()],
    }
    custom = _custom({"others": contract.others, "broken": contract.broken})
    table["customProperties"] = custom
    if contract.rows is not None:
        low, high = contract.rows.at_least, contract.rows.at_most
        bounds: dict[str, Any] = {}
        if low is not None and low == high:
            bounds = {"mustBe": low}
        elif low is not None and high is not None:
            bounds = {"mustBeBetween": [low, high]}
        elif low is not None:
            bounds = {"mustBeGreaterOrEqualTo": low}
        elif high is not None:
            bounds = {"mustBeLessOrEqualTo": high}
        if bounds:
            table["quality"] = [{"type": "library", "metric": "rowCount", **bounds}]
    told: dict[str, Any] = {
        "apiVersion": VERSION,
        "kind": "DataContract",
        "id": name,
        "version": "1.0.0",
        "status": "active",
        "name": name,
        "schema": [table],
    }
    if contract.fresh is not None:
        days = contract.fresh.within / 86_400
        value, unit = (int(days), "d") if days == int(days) else (contract.fresh.within, "s")
        element = f"{name}.{contract.fresh.column}"
        told["slaProperties"] = [{"property": "freshness", "value": value, "unit": unit, "element": element}]
    return told


def _property(name: str, spec: ColumnSpec) -> dict[str, Any]:
    known = OPTIONS.get(spec.type or "", {})
    bounds = {one: getattr(spec, one) for one in BOUNDS if getattr(spec, one) is not None}
    options = {known[one]: value for one, value in bounds.items() if one in known and _fits(spec, one, value)}
    other = {one: value for one, value in bounds.items() if known.get(one) not in options}
    if spec.type is None:  # version 3.2 of the standard's schema takes a column without a type for a map
        other["type"] = ANY
    told: dict[str, Any] = {"name": name}
    told["logicalType"] = spec.type or "string"
    told |= {"required": True} if spec.required else {}
    told |= {"unique": True} if spec.unique else {}
    told |= {"logicalTypeOptions": options} if options else {}
    if spec.values is not None:
        arguments = {"validValues": list(spec.values)}
        told["quality"] = [
            {"type": "library", "metric": "invalidValues", "arguments": arguments, "mustBe": 0}
        ]
    return told | ({"customProperties": _custom(other)} if other else {})


def _fits(spec: ColumnSpec, one: str, value: Any) -> bool:
    """Numbers bound numbers and times times; all else is said in properties of our own."""
    if one not in ("min", "max"):
        return True
    return isinstance(value, str) == (spec.type in ("date", "timestamp"))


def _custom(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"property": f"{PREFIX}{name}", "value": value} for name, value in values.items()]


def from_odcs(told: Mapping[str, Any], place: str) -> ContractSpec:
    """Raises SpecError for what is no such document, or holds a check that would not be carried out."""
    if not str(told.get("apiVersion", "")).startswith("v3."):
        raise SpecError(
            f"{place}: apiVersion is {told.get('apiVersion')!r}, and contracts are read from version 3 on.",
            remedy="Write it in version 3 of the Open Data Contract Standard.",
        )
    tables = told.get("schema") or []
    if len(tables) != 1:
        raise SpecError(
            f"{place}: it describes {len(tables)} tables, and a source is one.",
            remedy="Write a contract for each source.",
        )
    [table] = tables
    written: dict[str, Any] = {"columns": {}, **_ours(table)}
    for one in table.get("properties") or []:
        written["columns"][str(one.get("name"))] = _column(one, place)
    for check in table.get("quality") or []:
        if check.get("metric", check.get("rule")) != "rowCount":
            raise _unkept(place, table.get("name"), check)
        written["rows"] = _row_bounds(check, place)
    for one in told.get("slaProperties") or []:
        if one.get("property") == "freshness":
            written["fresh"] = _fresh(one, place)
    try:
        return ContractSpec.model_validate(written)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"{place}: {where}: {first['msg'].removeprefix('Value error, ')}.", remedy="Correct it there."
        ) from None


def _ours(element: Mapping[str, Any]) -> dict[str, Any]:
    found = {one.get("property"): one.get("value") for one in element.get("customProperties") or []}
    return {str(k).removeprefix(PREFIX): v for k, v in found.items() if str(k).startswith(PREFIX)}


def _column(told: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind = told.get("logicalType")
    kind = SAME.get(kind, kind) if kind else None
    options = dict(told.get("logicalTypeOptions") or {})
    options.pop("format", None)  # how it is written, which the type says
    names = {theirs: ours for ours, theirs in OPTIONS.get(kind or "", {}).items()}
    for option in options:
        if option not in names:
            raise _unkept(place, told.get("name"), {option: options[option]})
    written = {
        "type": kind,
        "required": bool(told.get("required") or told.get("primaryKey")),
        "unique": bool(told.get("unique") or told.get("primaryKey")),
        **{names[option]: value for option, value in options.items()},
        **_ours(told),
    }
    if written["type"] == ANY:
        written["type"] = None
    for check in told.get("quality") or []:
        values = (check.get("arguments") or {}).get("validValues")
        if (
            check.get("metric", check.get("rule")) != "invalidValues"
            or values is None
            or check.get("mustBe") != 0
        ):
            raise _unkept(place, told.get("name"), check)
        written["values"] = values
    return written


def _row_bounds(check: Mapping[str, Any], place: str) -> dict[str, Any]:
    if between := check.get("mustBeBetween"):
        return {"at_least": between[0], "at_most": between[1]}
    if "mustBeGreaterOrEqualTo" in check:
        return {"at_least": check["mustBeGreaterOrEqualTo"]}
    if "mustBeGreaterThan" in check:
        return {"at_least": check["mustBeGreaterThan"] + 1}
    if "mustBeLessOrEqualTo" in check:
        return {"at_most": check["mustBeLessOrEqualTo"]}
    if "mustBeLessThan" in check:
        return {"at_most": check["mustBeLessThan"] - 1}
    if "mustBe" in check:
        return {"at_least": check["mustBe"], "at_most": check["mustBe"]}
    raise _unkept(place, "the rows", check)


def _fresh(told: Mapping[str, Any], place: str) -> dict[str, Any]:
    unit, value = UNITS.get(str(told.get("unit", "d")).lower()), told.get("value")
    element = str(told.get("element") or "")
    if unit is None or not isinstance(value, int | float) or not element:
        raise _unkept(place, "freshness", told)
    return {"column": element.rpartition(".")[2], "within": value * unit}


def _unkept(place: str, what: Any, check: Any) -> SpecError:
    return SpecError(
        f"{place}: {what} has a check that would not be carried out: {str(check)[:200]}.",
        remedy="Take it out of the copy that Luthier reads, or say it with what docs/mapping.md lists.",
    )
