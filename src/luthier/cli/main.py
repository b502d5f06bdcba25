"""The command `luthier`. Each command parses its words, asks one verb (of this machine or of a server), prints, and exits with a code:

0 done · 1 defect · 2 recipe or words · 3 data · 4 model · 5 store · 6 a part is missing · 7 the gate stopped it · 8 not allowed · 9 over budget · 130 interrupted
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from luthier import __version__
from luthier.core.errors import SpecError
from luthier.postprocessing.spec import FORMS

from .accounts import key, org, project, user
from .approvals import approval
from .asking import ask, ask_long
from .audit import audit
from .budgets import budget
from .choosing import advise, report, select
from .command import Nearest, app, as_json_option, here, meant, on_this_machine, put, put_json, told
from .data import data
from .deploy import deploy
from .door import Door, door_options
from .harness import harness
from .jobs import job
from .monitoring import monitor
from .policy import policy
from .remote import remote
from .rollout import rollout
from .server import server
from .traffic import traffic

DEFAULT_BASE = "smollm2-135m-instruct"


ASKING = frozenset({
    "init", "plan", "profile", "run", "search", "merge", "compare", "show", "lineage", "list", "chat", "serve", "export", "verify",
    "doctor", "advise", "select", "report", "data", "traffic", "audit", "rollout", "monitor", "deploy", "harness", "remote", "job",
})  # fmt: skip
"""Commands that know of servers: they ask the one that is meant, or say that they cannot. Any other is refused where one is meant."""

_sets = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Change one value of the recipe; may be given again.",
)


@click.group(cls=Nearest, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="luthier")
@click.option(
    "--remote",
    "remote_name",
    metavar="NAME",
    help="Ask this server (luthier remote); `local`: this machine. Default: LUTHIER_REMOTE, else the one in use.",
)
@click.pass_context
def main(context: click.Context, remote_name: str | None) -> None:
    """Fine-tune language models on the data a company already has, inside its own walls.

    \b
    luthier init tickets.csv > recipe.yaml    propose a recipe from a data file
    luthier plan recipe.yaml                  what would run, how long, how much
    luthier run recipe.yaml                   do it
    luthier serve ticket-router               answer the OpenAI protocol
    """
    context.obj = remote_name
    if context.invoked_subcommand not in ASKING:
        told(on_this_machine)(context.invoked_subcommand or "")


@main.command()
@click.argument("data_file")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="The model to start from.")
@click.option("--name", help="What the released model will be called; default: from the file's name.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write there instead of to standard output; never overwrites.",
)
@as_json_option
@told
def init(data_file: str, base: str, name: str | None, output: Path | None, as_json: bool) -> None:
    """Propose a commented recipe for DATA_FILE: what its columns mean, which task, how to split."""
    text = here().recipes.init(data_file, base=base, name=name, folder=output.parent if output else None)
    if output:
        try:
            with output.open("x", encoding="utf-8") as handle:
                handle.write(text)
        except FileExistsError:
            raise SpecError(
                f"{output} is already there.", remedy="Choose another name, or remove it first."
            ) from None
        except OSError as error:
            raise SpecError(
                f"{output} cannot be written: {error.strerror}.", remedy="Choose another place."
            ) from None
    if as_json:
        put_json({"recipe": text, "path": str(output) if output else None})
    elif output:
        put(f"wrote {output}; next: luthier plan {output}")
    else:
        click.echo(text, nl=False)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option(
    "--no-probe", is_flag=True, help="Formulas only: skip the two real steps that measure this machine."
)
@as_json_option
@told
def plan(recipe: Path, sets: tuple[str, ...], no_probe: bool, as_json: bool) -> None:
    """What RECIPE would run, how long, with how much memory and money. Trains nothing."""
    from .tables import print_plan

    result = ask_long("recipes.plan", recipe, sets, probe=not no_probe)
    put_json(result) if as_json else print_plan(result)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Optimizer steps on the clock; one to warm up and one to record come on top.",
)
@as_json_option
@told
def profile(recipe: Path, sets: tuple[str, ...], steps: int, as_json: bool) -> None:
    """Where a training step of RECIPE spends its time and what holds it back. Keeps no weights."""
    from .profiling import print_profile

    result = ask_long("recipes.profile", recipe, sets, steps=steps)
    put_json(result) if as_json else print_profile(result)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option("--fresh", is_flag=True, help="Make every step anew, even what is already there.")
@click.option(
    "--waive",
    multiple=True,
    metavar="METRIC",
    help="Let this very model pass although it breaks the gate's rule of METRIC; may be given again. Needs --because and --by.",
)
@click.option("--because", metavar="REASON", help="Why the rule is let go; it stands on the model card.")
@click.option("--by", metavar="NAME", help="Who answers for it.")
@click.option("--by-me", is_flag=True, help="I do, as the operating system knows me.")
@as_json_option
@told
def run(
    recipe: Path,
    sets: tuple[str, ...],
    fresh: bool,
    waive: tuple[str, ...],
    because: str | None,
    by: str | None,
    by_me: bool,
    as_json: bool,
) -> None:
    """Do it: prepare, train, evaluate, judge, pack, release. Run again to go on after a stop."""
    from luthier.app.acting import system_user
    from luthier.governance.waiver import Asked

    from .tables import print_run

    if meant() is None:
        let_go: dict[str, Any] = {"waive": Asked.of(waive, because, by, system_user() if by_me else None)}
    else:
        let_go = {"waive": waive, "because": because, "by": by or by_me or None}
    result = ask_long("recipes.run", recipe, sets, fresh=fresh, **let_go)
    put_json(result) if as_json else print_run(result)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option("--join", is_flag=True, help="Take part in a search that another process or host has begun.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes of this machine that take trials, this one included.",
)
@click.option("--techniques", is_flag=True, help="Over the techniques that `luthier advise` finds possible.")
@as_json_option
@told
def search(
    recipe: Path, sets: tuple[str, ...], join: bool, workers: int, techniques: bool, as_json: bool
) -> None:
    """Try the settings that RECIPE's section `search` names, and say which to keep. `luthier run` does this first, too.

    Trials are judged on validation rows; the test rows stay untouched. Run again to go on after a stop: trials, time and money
    go on where they were. Several processes and hosts may share one search (search.storage).
    """
    from .choosing import print_search

    result = ask_long("recipes.search", recipe, sets, join=join, workers=workers, techniques=techniques)
    put_json(result) if as_json else print_search(result, str(recipe))


@main.command()
@click.argument("written", metavar="FILE", type=click.Path(path_type=Path))
@_sets
@as_json_option
@told
def merge(written: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """Make one model of several that were tuned from one base, as FILE says.

    \b
    models: [router@3, {model: triage@1, weight: 0.5}]
    method: {kind: ties, density: 0.2}     # linear, task_arithmetic, ties, dare or slerp
    measure: router@3                      # the release whose test rows and metrics it is held to; may be left out
    """
    from .tables import print_merged

    result = ask_long("recipes.merge", written, sets)
    put_json(result) if as_json else print_merged(result)


@main.command()
@click.argument("one")
@click.argument("other")
@as_json_option
@told
def compare(one: str, other: str, as_json: bool) -> None:
    """ONE against OTHER (releases or reports), on the test rows that both were asked: what is better, and how sure is that."""
    from .tables import print_comparison

    found = ask("models.compare", one, other)
    put_json(found) if as_json else print_comparison(found)


@main.command()
@click.argument("ref")
@click.option("--verify", is_flag=True, help="Read every byte and compare it with its hash.")
@as_json_option
@told
def show(ref: str, verify: bool, as_json: bool) -> None:
    """One artifact, whole: REF is a name, name@version, or the first digits of a digest."""
    from .tables import print_artifact

    found = ask("records.show", ref, verify=verify)
    put_json(found) if as_json else print_artifact(found)
    if found.get("damaged"):
        sys.exit(5)


@main.command()
@click.argument("ref")
@click.option("--rows", "all_rows", is_flag=True, help="List every training row, not only the first five.")
@as_json_option
@told
def lineage(ref: str, all_rows: bool, as_json: bool) -> None:
    """Where REF came from and what came of it.

    REF may also be row:ID (a record) or the id of a served answer (chatcmpl-...).
    """
    from .tables import print_lineage

    found = ask("records.lineage", ref, all_rows=all_rows)
    put_json(found) if as_json else print_lineage(found)


@main.command("list")
@click.argument("kind", required=False)
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only with this tag; given again, with all of them."
)
@click.option("--owner", metavar="NAME", help="Only what this owner answers for.")
@click.option("--purpose", metavar="WORDS", help="Only where these words stand in the purpose.")
@as_json_option
@told
def list_(
    kind: str | None, tags: tuple[str, ...], owner: str | None, purpose: str | None, as_json: bool
) -> None:
    """Released models; or every artifact of KIND: dataset, model, report, benchmark, package, release, source, run.

    Tags, owner and purpose are what a recipe says of its dataset (data.about), in any case; they also find what was made
    from such a dataset.
    """
    from .tables import print_list

    rows = ask("records.listing", kind, tags=tags, owner=owner, purpose=purpose)
    if not rows and (tags or owner or purpose) and not as_json:
        put("nothing here has such a tag, owner or purpose (data.about in a recipe)")
        return
    put_json(rows) if as_json else print_list(rows, kind)


@main.command()
@click.argument("ref")
@click.option("--ask", metavar="TEXT", help="Ask one question and leave.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@as_json_option
@told
def chat(ref: str, ask: str | None, max_tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    """Talk to a released model, or to a base model by its name."""
    from .chatting import talk

    talk(app(), ref, ask=ask, max_tokens=max_tokens, temperature=temperature, seed=seed, as_json=as_json)


@main.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond loopback a key file is needed.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="A file with one API key a line, and after it what it may do if not everything; default: a new key is made and shown once.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A Host header to accept besides loopback; may be given again.",
)
@door_options
@as_json_option
@told
def serve(
    refs: tuple[str, ...],
    host: str,
    port: int,
    key_file: Path | None,
    allowed_hosts: tuple[str, ...],
    as_json: bool,
    **door: Any,
) -> None:
    """Answer OpenAI's protocols (chat, completions, responses, embeddings) for one or more releases.

    docs/serving.md says what each takes, and what /metrics and /status show.
    """
    from .serving import serve_releases

    serve_releases(
        app(),
        refs,
        host=host,
        port=port,
        key_file=key_file,
        allowed_hosts=allowed_hosts,
        door=Door(**door),
        as_json=as_json,
    )


@main.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default="merged",
    show_default=True,
    help="merged, int8, int4: transformers and vLLM; adapter: peft and vLLM; gguf*: llama.cpp; onnx: ONNX Runtime.",
)
@as_json_option
@told
def export(ref: str, folder: Path, form: str, as_json: bool) -> None:
    """Write a release's model to FOLDER in the field's own formats. Never overwrites.

    A form that the release does not hold is made now and goes through the same gate: it must say what the trained model says.
    A model with a classification or regression head brings head.safetensors, which only Luthier reads: other tools see
    the language model without it.
    """
    from luthier.core.units import show_bytes
    from luthier.postprocessing.package import HEAD

    done = ask_long("models.export", ref, folder, form=form)
    if as_json:
        put_json(done)
        return
    put(
        f"wrote {len(done.files)} files, {show_bytes(done.size_bytes)}, to {folder} ({form}); README.md says how to load them"
    )
    if HEAD in done.files:
        put(f"{HEAD} is the model's own head: only Luthier reads it, other tools see the model without it")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json_option
@told
def verify(folder: Path, as_json: bool) -> None:
    """Hold FOLDER, which `luthier export` wrote, against its SHA256SUMS: what is missing, changed or was added."""
    from dataclasses import asdict

    from .file_tables import print_verdict

    found = here().models.verify(folder)
    put_json({**asdict(found), "sound": found.sound}) if as_json else print_verdict(found)
    if not found.sound:
        sys.exit(4)


@main.command()
@as_json_option
@told
def doctor(as_json: bool) -> None:
    """What this machine has, what is missing, and how to get it."""
    from dataclasses import asdict

    from .tables import print_findings

    findings = here().doctor()
    put_json([asdict(f) for f in findings]) if as_json else print_findings(findings)
    if any(f.state == "bad" for f in findings):
        sys.exit(5)


main.add_command(advise)
main.add_command(select)
main.add_command(report)
main.add_command(data)
main.add_command(traffic)
main.add_command(audit)
main.add_command(policy)
main.add_command(approval)
main.add_command(budget)
main.add_command(rollout)
main.add_command(monitor)
main.add_command(deploy)
main.add_command(harness)
main.add_command(remote)
main.add_command(job)
main.add_command(server)
main.add_command(org)
main.add_command(project)
main.add_command(user)
main.add_command(key)


if __name__ == "__main__":
    main()
