"""docs/access.md says what the code says: roles, and the routes of accounts."""

from pathlib import Path

from luthier.governance.access import table
from luthier.server.platform.accounts import AccountRoutes
from luthier.server.platform.audit import AuditRoutes
from luthier.server.platform.login import LoginRoutes

PAGE = Path(__file__).parents[4] / "docs" / "access.md"


def test_roles():
    text = PAGE.read_text(encoding="utf-8")
    assert table() in text


def test_routes():
    text = PAGE.read_text(encoding="utf-8")
    for route in (*AccountRoutes.ROUTES, *LoginRoutes.ROUTES, *AuditRoutes.ROUTES):
        path = route.path.removeprefix("/luthier/v1")
        assert f"| `{route.method} {path}` | {route.permission or 'none'} |" in text, route
