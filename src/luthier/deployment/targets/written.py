"""YAML and JSON that every reader reads the same way, and names as Kubernetes takes them.

Strings are always quoted: YAML 1.1, which most tools of Kubernetes read, takes `no` for false and `1e3` for a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

HEAD = "# Written by `luthier deploy render`; render again rather than edit.\n"


def yaml(*documents: Mapping[str, Any]) -> str:
    """
    >>> print(yaml({"a": {"b": "no", "c": [1, {"d": True, "e": []}]}}), end="")
    # Written by `luthier deploy render`; render again rather than edit.
    ---
    a:
      b: "no"
      c:
        - 1
        - d: true
          e: []
    """
    return HEAD + "".join("---\n" + "".join(f"{line}\n" for line in _lines(one)) for one in documents)


def _lines(value: Any) -> list[str]:
    told = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = key if re.fullmatch(r"[A-Za-z$][\w./$-]*", key) else json.dumps(key)
            if isinstance(inner, Mapping | list | tuple) and inner:
                told += [f"{name}:", *(f"  {line}" for line in _lines(inner))]
            else:
                told.append(f"{name}: {json.dumps(inner)}")
        return told
    for item in value:
        if isinstance(item, Mapping | list | tuple) and item:
            first, *rest = _lines(item)
            told += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            told.append(f"- {json.dumps(item)}")
    return told


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def label(name: str, most: int = 42) -> str:
    """A name as Kubernetes and the clouds take it (DNS-1123, at most so long); two names never become one.

    >>> label("ticket-router"), label("ticket_router.v2")
    ('ticket-router', 'ticket-router-v2-453673')
    """
    made = re.sub(r"[^a-z0-9-]", "-", name)[: most - 9].strip("-") or "model"
    if not made[0].isalpha():
        made = f"m-{made}"
    return made if made == name else f"{made}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def gibibytes(value_bytes: float) -> str:
    """Rounded up.

    >>> gibibytes(1), gibibytes(3 * 2**30)
    ('1Gi', '3Gi')
    """
    return f"{max(1, -int(-value_bytes // 2**30))}Gi"
