"""What can be asked of a file before it is a dataset: which layout it has, the same rows in another layout, and what it promises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.spec import parse, read_yaml, resolve

if TYPE_CHECKING:
    from luthier.data.contract import ContractSpec
    from luthier.data.spec import SourceSpec


def source_of(file: str, written: str | None = None) -> SourceSpec:
    """A file, pattern or URL as a source; `written` is a map as a recipe has it. Raises SpecError."""
    from luthier.data.spec import DataSpec

    wish: dict[str, Any] = {"files": file}
    tree = read_yaml(written, "--map") if written else None
    if tree is not None:
        from luthier.data.maps import MapSpec

        wish["map"] = parse(MapSpec, tree).model_dump(mode="json", exclude_unset=True)
    return DataSpec.model_validate({"sources": [wish]}).sources[0]


def layout(file: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Every layout that the file could have, the likeliest first."""
    from luthier.data.looks import look

    found = look(source_of(file), Path.cwd(), lambda text: resolve(text, environ))
    return {
        "file": file,
        "format": found.head.format,
        "columns": found.head.columns,
        "rows": len(found.head.rows),
        "sure": found.sure,
        "layouts": [
            {
                "layout": one.shape.name,
                "map": one.written,
                "confidence": round(one.shape.confidence, 3),
                "reason": one.shape.reason,
                "fits": one.fits,
                "first_fault": one.first_fault,
            }
            for one in found.looks
        ],
    }


def convert(file: str, out: Path, to: str, written: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The rows of a file in another layout, as JSON Lines."""
    from luthier.data.convert import convert

    done = convert(source_of(file, written), to, out, Path.cwd(), lambda text: resolve(text, environ))
    return {
        "file": str(out),
        "from": done.shape.name,
        "to": to,
        "rows": done.rows,
        "set_aside": [{"origin": origin, "reason": why} for origin, why in done.set_aside.items()],
    }


def propose_contract(file: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """A contract that the first rows of the file keep."""
    from luthier.data.contract_proposal import propose_contract

    found, head = propose_contract(source_of(file), Path.cwd(), lambda text: resolve(text, environ))
    return {"contract": _written(found), "rows": len(head.rows)}


def check_contract(file: str, contract: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The file held against a contract."""
    from luthier.data.contract import contract_of
    from luthier.data.contract_proposal import check_contract

    promised = contract_of(contract, Path.cwd())
    assert promised is not None
    done = check_contract(source_of(file), promised, Path.cwd(), lambda text: resolve(text, environ))
    broken = [{"origin": origin, "reason": why} for origin, why in done.first.items()]
    return {"file": file, "rows": done.rows, "broken": done.broken, "first": broken, "refused": done.refused}


def contract_as(contract: str, name: str | None, *, odcs: bool) -> dict[str, Any]:
    """A contract, ours or of the standard, in the other form."""
    from luthier.data.contract import contract_of
    from luthier.data.odcs import to_odcs

    found = contract_of(contract, Path.cwd())
    assert found is not None
    return to_odcs(found, name or Path(contract).stem) if odcs else _written(found)


def _written(spec: ContractSpec) -> dict[str, Any]:
    """What was said, without what is so anyway."""
    columns = {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in spec.columns.items()}
    rest = spec.model_dump(mode="json", exclude_defaults=True, exclude={"columns"})
    return {"columns": columns, **rest}


def as_yaml(value: Any) -> str:
    """Plain values as YAML that a person edits, read the same by readers of version 1.1 (for which `no` is false)."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml, out = YAML(typ="rt", pure=True), StringIO()
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.dump(_quoted(value), out)
    return out.getvalue()


_OTHERWISE = re.compile(r"y|n|yes|no|on|off|true|false|null|~", re.IGNORECASE)


def _quoted(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {_quoted(key): _quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_quoted(inner) for inner in value]
    return (
        DoubleQuotedScalarString(value) if isinstance(value, str) and _OTHERWISE.fullmatch(value) else value
    )
