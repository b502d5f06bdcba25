"""What was used, by any dimension, as JSON, CSV or a workbook: GET /luthier/v1/usage?by=project,month&format=csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from luthier.app.sheets import CSV_TYPE, XLSX_TYPE, as_csv, as_xlsx
from luthier.server.errors import ApiError
from luthier.server.routes import LISTED, Described, Route

from .asked import caller, worked
from .query import asked_in

if TYPE_CHECKING:
    from luthier.app.site import Caller, Site

MOST_ROWS = 100_000
_PARAMETERS = ("by", "month", "unit", "format")


class UsageRoutes:
    ROUTES: ClassVar = (Route("GET", "/luthier/v1/usage", "usage", "usage.read"),)

    DESCRIBED: ClassVar = {
        "usage": Described(
            "What was used.", gives=LISTED, query=_PARAMETERS, also=(CSV_TYPE.partition(";")[0], XLSX_TYPE)
        )
    }

    def __init__(self, site: Site) -> None:
        self._site = site

    async def usage(self, request: Request) -> Response:
        told = asked_in(request, _PARAMETERS)
        form = told.get("format", "json")
        if form not in ("json", "csv", "xlsx"):
            raise ApiError(400, "invalid_value", "format is json, csv or xlsx.", param="format")
        by = [one for one in told.get("by", "month").split(",") if one]
        rows = await worked(self._rows, caller(request), by, told)
        columns = [*by, "unit", "amount"]
        if form == "json":
            return JSONResponse({"object": "list", "data": rows})
        name = f"usage-{told.get('month', 'all')}.{form}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        if form == "csv":
            return Response(await worked(as_csv, rows, columns), 200, headers, CSV_TYPE)
        return Response(await worked(as_xlsx, rows, columns, "usage"), 200, headers, XLSX_TYPE)

    def _rows(self, who: Caller, by: Sequence[str], told: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        rows = self._site.budgets.usage(who, by, month=told.get("month"), unit=told.get("unit"))
        if len(rows) > MOST_ROWS:
            raise ApiError(
                400,
                "invalid_value",
                f"That is more than {MOST_ROWS:,} rows; ask for a month, or fewer dimensions.",
            )
        return rows
