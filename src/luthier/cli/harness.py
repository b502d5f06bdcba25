"""`luthier harness`: the field's own tasks on our models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from luthier.core.artifact import short
from luthier.core.errors import SpecError

from .asking import ask_long
from .command import as_json_option, put_json, told


@click.command()
@click.argument("ref")
@click.option("--tasks", required=True, metavar="A,B", help="Names of tasks, groups or tags.")
@click.option(
    "--include", type=click.Path(path_type=Path), help="A folder with further tasks, which may run no code."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows of each task, its first.")
@click.option(
    "--shots", type=click.IntRange(0, 100), help="Examples before each question; default: the task's own."
)
@click.option("--no-chat-template", is_flag=True, help="Ask in plain text, as base models are asked.")
@click.option("--network", is_flag=True, help="Let the harness fetch the rows of its tasks from a hub.")
@as_json_option
@told
def harness(
    ref: str, tasks: str, include: Path | None, limit: int | None, shots: int | None, no_chat_template: bool, network: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Tasks of lm-evaluation-harness on REF: a release, a model, or a base by its name. Needs 'luthier[harness]'.

    \b
    luthier harness ticket-router --tasks arc_easy --limit 200 --network
    luthier data export ticket-router tasks --format lm-eval
    luthier harness ticket-router --tasks ticket_router --include tasks

    Nothing is fetched without --network; no code of a data set, of --include or of a downloaded metric runs. The result is kept:
    `luthier list benchmark`, `luthier show DIGEST`.
    """
    names = [name for one in tasks.split(",") if (name := one.strip())]
    if not names:
        raise SpecError(
            "--tasks names no task.", remedy="Write one, or several with commas: --tasks arc_easy,piqa"
        )
    found = ask_long(
        "models.harness", ref, names, include=include, limit=limit, shots=shots, chat=not no_chat_template, network=network
    )  # fmt: skip
    put_json(found) if as_json else print_benchmark(found)


def print_benchmark(found: Mapping[str, Any]) -> None:
    """Every task with its metrics and the harness' standard errors."""
    from luthier.app.report.wording import visible

    from .tables import columns

    lines = [("task", "rows", "shots", "metric", "value", "error")]
    for name, task in found["tasks"].items():
        for metric, one in task["metrics"].items():
            error = "" if one["error"] is None else f"± {one['error']:.2g}"
            value = "none" if one["value"] is None else f"{one['value']:.4g}"
            lines.append((visible(name), f"{task['rows']:,}", str(task["shots"]), metric, value, error))
    click.echo(columns(lines))
    for name, metrics in found["groups"].items():
        told_ = "  ".join(
            f"{metric} {one['value']:.4g}" for metric, one in metrics.items() if one["value"] is not None
        )
        click.echo(f"group {visible(name)}: {told_}")
    for line in found["cautions"]:
        click.echo(f"note: {line}")
    form = "chat template" if found["chat"] else "plain text"
    click.echo(f"lm-eval {found['harness']}, {form}; luthier show {short(found['benchmark'])}")


def print_exported_tasks(found: Mapping[str, Any]) -> None:
    """What to write next, after an export in the harness' form."""
    import shlex

    if found["left_out"]:
        click.echo(
            f"{found['left_out']:,} test rows are left out: the harness asks one question, and gives no tools"
        )
    folder, first = shlex.quote(str(found["to"])), found["tasks"][0]
    click.echo(f"tasks:  {', '.join(found['tasks'])}")
    click.echo(f"next:   luthier harness MODEL --tasks {first} --include {folder}")
    click.echo(
        f"or:     lm_eval --model hf --model_args pretrained=MODEL --tasks {first} --include_path {folder} --apply_chat_template"
    )
