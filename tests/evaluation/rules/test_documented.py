"""What docs/generation.md shows is what recipes take."""

from __future__ import annotations

import re
from pathlib import Path

from luthier.core.spec import read_yaml
from luthier.data.spec import RulesSpec

PAGE = (Path(__file__).parents[3] / "docs" / "generation.md").read_text(encoding="utf-8")


def test_recipes_of_the_page_are_read() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    for block in blocks:
        RulesSpec.model_validate(read_yaml(block).value["data"]["rules"])


def test_settings_of_the_page_are_read() -> None:
    settings = re.findall(r"`(\{model: M.*?\})`", PAGE)
    assert len(settings) == 5
    for one in settings:
        RulesSpec.model_validate({"relevance": [{"difficulty": read_yaml(one).value}]})
    for written in re.findall(r"`(\{select: .*?\})`|`(augment: .*?\]\})`", PAGE):
        RulesSpec.model_validate({"quantity": [read_yaml("".join(written)).value]})
