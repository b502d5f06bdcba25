"""The harness, kept from what it may not do in this process. Its own switches are globals; they are put back afterwards.

    network      off, unless it was asked for: neither rows nor metrics are fetched, from a hub or from any address
    code         none of a data set (datasets 4 and later have no such thing), none of a folder of tasks (`refuse_code` tells it
                 early, `_without_functions` is what holds), none of a metric that would be downloaded; tasks that are marked as
                 unsafe do not run
    templates    of tasks are written by whoever wrote the task, and run in Jinja's sandbox
    noise        its log and its progress bars

Not here: what the tasks of the installed package do in functions of their own. They are code of that package.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, MissingPart, SpecError, missing_part

_LOCK = threading.Lock()
_CODE = re.compile(r"!function|^\s*(?:unsafe_code|trust_remote_code)\s*:\s*(?:true|yes|on)\b", re.IGNORECASE | re.MULTILINE)  # fmt: skip
OLDEST = "0.4.12"


def version() -> str:
    """Of lm-eval. Raises MissingPart where it is not installed, or is older than OLDEST."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        found = of("lm-eval")
        datasets = of("datasets")
    except PackageNotFoundError:
        raise missing_part("lm-eval", "harness", "Running the harness' tasks") from None
    if _numbers(found) < _numbers(OLDEST) or _numbers(datasets) < (4,):
        raise MissingPart(
            f"lm-eval {found} with datasets {datasets} is installed; lm-eval {OLDEST} and datasets 4 are the oldest that will do.",
            remedy="pip install -U 'luthier[harness]'",
        )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """
    >>> _numbers("0.4.13") > _numbers("0.4.9"), _numbers("4.0.0.dev1")
    (True, (4, 0, 0))
    """
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def fingerprint(folder: Path) -> str:
    """SHA-256 over names and bytes of all files in a folder of tasks. Raises SpecError where there is no such folder, and as
    `refuse_code`."""
    if not folder.is_dir():
        raise SpecError(
            f"{folder} is not a folder.",
            remedy="Name the folder with the tasks' YAML files, as `luthier data export --format lm-eval` writes one.",
        )
    told = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        refuse_code(path)
        told.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()


def refuse_code(path: Path) -> None:
    """Raises SpecError where a file of tasks says that it would run Python. Other ways of writing the same, and what a file
    includes, are refused when it is loaded."""
    if path.suffix not in (".yaml", ".yml"):
        return
    found = _CODE.search(path.read_text(encoding="utf-8", errors="replace"))
    if found is not None:
        raise _would_run(path.name, found[0].strip())


def _would_run(where: str, what: str) -> SpecError:
    return SpecError(
        f"{where} would run code: {what!r}. Tasks from a folder may not.",
        remedy="Write it without functions, or run it with lm_eval itself against `luthier serve` (docs/evaluation.md).",
    )


def _without_functions(
    make_loader: Callable[..., Any], installed: Path, own: Path | None
) -> Callable[..., Any]:
    """The harness' maker of YAML loaders, of which there is one for each file that is read, included ones too: outside the
    installed package `!function` is refused, however it is written, and so is a file outside the folder of tasks, which
    their identity does not hold."""

    def guarded(base_dir: Path, *, resolve_funcs: bool) -> Any:
        loader = make_loader(base_dir, resolve_funcs=resolve_funcs)
        if not resolve_funcs or base_dir.is_relative_to(installed):
            return loader  # while names are listed, functions stay words
        if own is None or not base_dir.is_relative_to(own):
            raise SpecError(
                f"a task includes a file of {base_dir}, which is outside its folder.",
                remedy="Put what tasks include into the folder of --include.",
            )

        def refused(_: Any, node: Any) -> Any:
            raise _would_run(Path(node.start_mark.name).name, f"!function {node.value}")

        loader.add_constructor("!function", refused)
        return loader

    return guarded


_HERE = {"", "file", "local", "memory", "hf", "zip", "tar", "libarchive", "gzip", "bz2", "lz4", "xz", "zstd"}
"""fsspec's names of what needs no network; `hf` asks huggingface_hub, which is switched off by itself."""


def _local_alone(find: Callable[[str], Any]) -> Callable[[str], Any]:
    """fsspec's look-up of file systems, without those that ask somebody: `datasets` looks at an address before it heeds its own
    switch."""

    def guarded(protocol: str) -> Any:
        if (protocol or "") not in _HERE:
            raise ConnectionError(f"{protocol}:// is not on this machine")
        return find(protocol)

    return guarded


@contextmanager
def safely(*, network: bool, folder: Path | None = None) -> Iterator[None]:
    """One at a time: what is switched is the process'. `folder`: of further tasks."""
    import datasets
    import evaluate
    import huggingface_hub.constants as hub
    import lm_eval.api.task as task
    import lm_eval.tasks._yaml_loader as files
    import lm_eval.utils as utils
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    sandbox.filters.update(utils.env.filters)
    with _LOCK, ExitStack() as stack:
        if not network:
            stack.enter_context(_set(hub, "HF_HUB_OFFLINE", True))
            stack.enter_context(_set(datasets.config, "HF_HUB_OFFLINE", True))
            stack.enter_context(_set(datasets.config, "HF_DATASETS_OFFLINE", True))
            systems = import_module("fsspec.registry")  # as an attribute of fsspec it is a table
            guarded = _local_alone(systems.get_filesystem_class)
            for module in (import_module("fsspec.core"), systems):
                stack.enter_context(_set(module, "get_filesystem_class", guarded))
        own = None if folder is None else folder.resolve()
        loaders = _without_functions(files._make_loader, Path(files.__file__).resolve().parent, own)
        stack.enter_context(_set(files, "_make_loader", loaders))
        stack.enter_context(_set(evaluate, "load", _no_download))
        stack.enter_context(_set(utils, "env", sandbox))
        stack.enter_context(_set(task, "tqdm", partial(task.tqdm, disable=True)))
        stack.enter_context(_quiet("lm_eval"))
        stack.enter_context(_quiet("datasets"))
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if not bars:
                datasets.enable_progress_bars()


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _no_download(name: str, *_: Any, **__: Any) -> Any:
    raise SpecError(
        f"a task measures with {name!r}, whose code would be fetched from a hub and run here.",
        remedy="Choose a task with metrics of the harness' own (acc, acc_norm, exact_match, f1, bleu, chrf, ...).",
    )


@contextmanager
def templates_explained() -> Iterator[None]:
    """A template of a task that names what is not there, or that reaches for what the sandbox keeps from it."""
    from jinja2.exceptions import TemplateError

    try:
        yield
    except TemplateError as error:
        raise SpecError(
            f"a template of a task cannot be filled in: {str(error)[:200]}",
            remedy="Look at doc_to_text, doc_to_target, doc_to_choice and description in its YAML file.",
        ) from error


@contextmanager
def explained(tasks: str, network: bool) -> Iterator[None]:
    """What goes wrong while tasks are loaded, as what a person can do about it."""
    import datasets

    try:
        yield
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        told = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the rows of {tasks} are not to be had: {told}",
            remedy="They are fetched from a hub only with --network; without it they must lie in the cache of the package `datasets`, or in files of the task's own folder."
            if not network
            else "Check the network and the name of the data set.",
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(
            f"{tasks} cannot be loaded: {type(error).__name__}: {str(error)[:200]}",
            remedy="Look at its YAML file; the harness' own documentation says what stands in it.",
        ) from error
