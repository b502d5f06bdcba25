"""How what is said of files is shown: layouts and conversions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .command import put

SHOWN = 5


def print_layouts(found: Mapping[str, Any]) -> None:
    put(f"{found['file']}: {found['format']}, columns {', '.join(found['columns'])}")
    for n, one in enumerate(found["layouts"]):
        put()
        put(f"{'it is' if n == 0 else 'or'} {one['layout']}, {one['confidence']:.0%} sure: {one['reason']}")
        put(f"  map: {json.dumps(one['map'], ensure_ascii=False)}")
        put(f"  fits {one['fits']:,} of the first {found['rows']:,} rows")
        if one["first_fault"]:
            put(f"  {one['first_fault']}")
    if not found["sure"]:
        put()
        put("More than one is likely: write the one that is meant as map: in the recipe.")


def print_converted(found: Mapping[str, Any]) -> None:
    put(f"wrote {found['rows']:,} rows to {found['file']}: {found['from']} to {found['to']}")
    gone = found["set_aside"]
    for one in gone[:SHOWN]:
        put(f"  set aside: {one['origin']}: {one['reason']}")
    if len(gone) > SHOWN:
        put(f"  and {len(gone) - SHOWN:,} more")


def print_checked(found: Mapping[str, Any]) -> None:
    put(f"{found['file']}: {found['broken']:,} of {found['rows']:,} rows break the contract")
    for one in found["first"][:SHOWN]:
        put(f"  {one['origin']}: {one['reason']}")
    if found["broken"] > SHOWN:
        put(f"  and {found['broken'] - SHOWN:,} more")
    for why in found["refused"]:
        put(f"refused: {why}")
    if not found["refused"]:
        put("it would be taken")
