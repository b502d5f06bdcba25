"""What can be asked of a file before it is a dataset: which layout it has, and the same rows in another layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.spec import parse, read_yaml, resolve

if TYPE_CHECKING:
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
