import importlib

import pytest

from luthier.core import plugin
from luthier.core.errors import SpecError


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, table in plugin.BUILT_IN.items() for n in table])
def test_every_line_of_the_table_loads(kind, name):
    if kind not in ("connector", "rule"):
        pytest.importorskip("torch")
    assert plugin.load(kind, name) is not None


def test_an_unknown_part_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'normalize'"):
        plugin.load("rule", "normalise")


def test_other_packages_add_parts_by_entry_point(monkeypatch):
    point = importlib.metadata.EntryPoint("shout", "luthier.core.units:share", "luthier.rule")
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [point] if group == "luthier.rule" else []
    )
    assert "shout" in plugin.names("rule")
    assert plugin.load("rule", "shout")("10%") == 0.1
