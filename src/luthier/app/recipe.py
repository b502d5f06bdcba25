"""The recipe a person writes, whole. Each section belongs to the folder that uses it; here they are put together.

`name`, `base` and `data` are enough; everything else has a default that is spelled out in the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from luthier.core.errors import SpecError, did_you_mean
from luthier.core.spec import Spec, Tree, override, parse, read_yaml
from luthier.cost.spec import BudgetSpec
from luthier.data.spec import DataSpec
from luthier.data.task import TaskSpec
from luthier.deployment.spec import DeploySpec
from luthier.evaluation.spec import EvaluateSection
from luthier.monitoring.spec import MonitorSpec
from luthier.postprocessing.spec import PostprocessSpec
from luthier.store.catalog import check_name
from luthier.training.search import SearchSpec
from luthier.training.spec import TrainSpec


class Recipe(Spec):
    """One file: from the data a company has to a released model."""

    name: str
    """What the released model is called; every release is a new version of this name."""
    base: str
    """The model to start from: a known name, a local folder, a URL (s3://, abfs://, webhdfs://) or a hub id (owner/name, better owner/name@revision)."""
    task: TaskSpec = TaskSpec()
    """What the model is to do."""
    data: DataSpec
    """Where the rows come from and what is done to them."""
    train: TrainSpec = TrainSpec()
    """How the base model is changed."""
    search: SearchSpec | None = None
    """Which settings to try before the best is measured and released; without it the recipe as written."""
    evaluate: EvaluateSection = EvaluateSection()
    """What it is measured against, and the gate it must pass."""
    postprocess: PostprocessSpec = PostprocessSpec()
    """How answers are refined and the model is packed."""
    deploy: DeploySpec = DeploySpec()
    """How a release takes over from the one before."""
    monitor: MonitorSpec | None = None
    """How the released model is watched, who is told, and when a new one is made (`luthier monitor step`)."""
    budget: BudgetSpec = BudgetSpec()
    """Limits that stop a run before anything is spent."""

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        try:
            return check_name(value)
        except SpecError as error:
            raise ValueError(f"{error.message} {error.remedy}") from None


@dataclass(frozen=True)
class Wish:
    """A recipe as read: the Spec, the text as written, the `--set` overrides, and the folder its paths start from."""

    recipe: Recipe
    text: str
    overrides: tuple[str, ...]
    folder: Path
    source: str


def again(wish: Wish, more: tuple[str, ...]) -> Wish:
    """The same recipe with further values changed. Raises SpecError."""
    overrides = (*wish.overrides, *more)
    tree = override(read_yaml(wish.text, Path(wish.source).name), overrides)
    return Wish(parse(Recipe, tree), wish.text, overrides, wish.folder, wish.source)


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Wish:
    """Read and check a recipe. Raises SpecError with every fault and its line."""
    text = read_written(path)
    tree: Tree = override(read_yaml(text, path.name), overrides)
    return Wish(parse(Recipe, tree), text, overrides, path.resolve().parent, str(path))


def parse_recorded(told: Mapping[str, Any], more: tuple[str, ...] = (), folder: Path | None = None) -> Wish:
    """A recipe as the event `run.started` has it, with further values changed. `folder`: where its paths start, which is not recorded."""
    source = str(told["source"])
    overrides = (*told["overrides"], *more)
    tree = override(read_yaml(told["recipe"], source), overrides)
    return Wish(parse(Recipe, tree), told["recipe"], overrides, folder or Path.cwd(), source)


def read_written(path: Path) -> str:
    """The text of a file that a person wrote. Raises SpecError."""
    if path.is_dir():
        raise SpecError(f"{path} is a folder.", remedy="Name the recipe file, e.g. luthier run recipe.yaml")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = (
            did_you_mean(path.name, beside)
            if beside
            else "`luthier init DATA_FILE` writes a recipe to start from"
        )
        raise SpecError(f"there is no recipe {str(path)!r}.", remedy=hint) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is not UTF-8 text (byte {error.start}).", remedy="Save the recipe as UTF-8."
        ) from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.", remedy="Check its rights.") from None
