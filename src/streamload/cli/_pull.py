"""`streamload pull`.

Part of `cli`. Progress and words for a person go to stderr; stdout has the result alone, so that scripts can read it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

import click

from ..errors import ChangedError, ChecksumError, FormatError
from ..options import StreamOptions
from ._common import Refusal, bad_values_refused, one_line, storage_option, storage_options
from ._progress import PullScreen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from .._format import ListedModel, ModelList
    from .._pull import Pulled

__all__ = ["pull"]

_FAILED: Final = 1
_NOT_FOUND: Final = 3
_DENIED: Final = 4
_WRONG: Final = 5
_INTERRUPTED: Final = 130  # what a shell reports for SIGINT
_TERMINATED: Final = 143  # the same for SIGTERM

_KEPT: Final = "what has arrived is kept, the same command goes on from it"
_NOT_KEPT: Final = (
    "the server names no version (ETag), so nothing can be resumed: the same command fetches again what is not whole"
)

_CODES: Final = (
    (FileNotFoundError, _NOT_FOUND, "not_found"),
    (PermissionError, _DENIED, "denied"),
    (ChangedError, _WRONG, "changed"),
    (ChecksumError, _WRONG, "checksum"),
    (FormatError, _WRONG, "format"),
)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: as Ctrl-C, but for the exit code. Process 1 of a container has no default for it."""


_EPILOG: Final = """\
\b
Exit codes:
  0    everything is there and verified
  1    failed: the store, the network, a full disk; the same command goes on from what is there
  2    the command or --manifest is wrong
  3    not found
  4    denied, by the store or by the directory
  5    wrong bytes: changed while pulled, not the expected SHA-256, no safetensors file though named so
  130  interrupted, 143 terminated; what has arrived is kept, if the server names a version of it (ETag)

\b
Examples:
  streamload pull s3://bucket/llama-3-8b --to models --storage-option endpoint_url=https://s3.example.com
  streamload pull hf://org/name@main --to models --include '*.safetensors' --include '*.json'
  streamload pull --manifest models.json --to models --json
"""


@click.command(epilog=_EPILOG)
@click.argument("urls", metavar="URL...", nargs=-1)
@click.option(
    "--to", "directory", required=True, type=click.Path(file_okay=False), help="The directory; made if missing."
)
@click.option("--manifest", "file", type=click.Path(dir_okay=False), help="Pull the models of this models.json.")
@click.option("--name", help="What the model is called; several URLs go into this one.  [default: by the URL]")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only files that match, such as '*.safetensors'; several times."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not files that match, such as '*.bin'; several times.")
@storage_option
@click.option("--connections", type=click.IntRange(1, 1024), help="Most requests in flight.  [default: adapts]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, also of a failure.")
@click.option("--quiet", is_flag=True, help="No progress.")
def pull(
    urls: tuple[str, ...],
    *,
    directory: str,
    file: str | None,
    name: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    given: tuple[str, ...],
    connections: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bring models into a directory: parallel, resumed where it was interrupted, every file verified.

    A URL is a file, a place that can be listed (s3://bucket/llama/, gs://, az://, hf://org/name, a directory), or an
    index, which brings its shards. Over http:// and https:// nothing can be listed: a place brings its
    model.safetensors, or index and shards; config.json, tokenizers and the like only where their URLs are given, too.

    Each model gets a directory of its name below DIR; models.json there says what is there. The same command again
    fetches only what is missing, or was written to since and is damaged. Credentials come from where the store's own
    tools take them: the environment, profiles, the machine's role.
    """
    if bool(urls) == (file is not None):
        raise click.UsageError("give URLs, or --manifest, and not both")
    if file is not None and (name is not None or include or exclude):
        raise click.UsageError("--name, --include and --exclude are of URLs; a manifest says them for each model")
    chosen = storage_options(given)
    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        if connections is not None:
            options = replace(options, connections=connections)
        wanted = _wanted(urls, file, name, include, exclude)
    screen = PullScreen(sys.stderr, quiet=quiet)
    try:
        with _termination_raised(), screen:
            done = _run(wanted, directory, chosen, options, screen)
    except KeyboardInterrupt as interrupt:
        code = _TERMINATED if isinstance(interrupt, _Terminated) else _INTERRUPTED
        kind = "terminated" if code == _TERMINATED else "interrupted"
        _fail(code, kind, f"{kind}; {_KEPT if screen.resumable else _NOT_KEPT}", directory, as_json=as_json)
    except (OSError, ValueError, TypeError, ImportError) as error:
        code, kind = next(
            ((code, kind) for known, code, kind in _CODES if isinstance(error, known)), (_FAILED, "failed")
        )
        if isinstance(error, (ValueError, TypeError)) and not isinstance(error, FormatError):
            code, kind = Refusal.exit_code, "usage"
        _fail(code, kind, one_line(error), directory, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"ok": True, "exit_code": 0, **_describe(done)}, indent=2))
    else:
        click.echo(_say(done))


def _wanted(
    urls: tuple[str, ...], file: str | None, name: str | None, include: tuple[str, ...], exclude: tuple[str, ...]
) -> ModelList:
    from .._pull import read_models, wanted_models

    if file is None:
        return wanted_models(urls, name=name, include=include, exclude=exclude)
    models = read_models(file)
    if not models.models:
        raise ValueError(f"{file}: names no model")
    return models


def _run(
    wanted: ModelList, directory: str, chosen: dict[str, object] | None, options: StreamOptions, screen: PullScreen
) -> Pulled:
    from .._pull import pull_models

    return pull_models(wanted, directory, storage_options=chosen, options=options, report=screen.show)


@contextmanager
def _termination_raised() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that threads end and what arrived is kept whole."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(code: int, kind: str, text: str, directory: str, *, as_json: bool) -> NoReturn:
    click.echo(f"streamload: {text}", err=True)
    if as_json:
        error = {"kind": kind, "message": text}
        click.echo(json.dumps({"ok": False, "exit_code": code, "directory": directory, "error": error}, indent=2))
    sys.exit(code)


def _describe(done: Pulled) -> dict[str, object]:
    return {
        "directory": done.directory,
        "nbytes": done.nbytes,
        "fetched": done.fetched,
        "seconds": done.seconds,
        "models": {name: _describe_model(model) for name, model in done.models.items()},
        "notes": list(done.notes),
    }


def _describe_model(model: ListedModel) -> dict[str, object]:
    from .._format import format_of

    files = model.files or {}
    return {
        "source": model.sources[0] if len(model.sources) == 1 else list(model.sources),
        "nbytes": sum([file.nbytes or 0 for file in files.values()]),
        "files": {
            name: {"nbytes": file.nbytes, "format": format_of(name), "sha256": file.sha256, "etag": file.etag}
            for name, file in files.items()
        },
    }


def _say(done: Pulled) -> str:
    from .._units import say_bytes, say_count, say_rate, say_seconds
    from ._describe import printable, table

    rows = [
        (
            printable(name),
            str(len(model.files or {})),
            say_bytes(sum([file.nbytes or 0 for file in (model.files or {}).values()])),
            printable(model.sources[0]) + (", …" if len(model.sources) > 1 else ""),
        )
        for name, model in done.models.items()
    ]
    here = done.nbytes - done.fetched
    rate = f" at {say_rate(done.fetched / done.seconds)}" if done.fetched and done.seconds else ""
    was = f", {say_bytes(here)} were here" if here > 0 else ""
    head = f"{say_count(len(done.models), 'model')} in {printable(done.directory)}: {say_bytes(done.nbytes)}"
    return (
        f"{head}; {say_bytes(done.fetched)} fetched in {say_seconds(done.seconds)}{rate}{was}\n\n"
        f"{table(('model', 'files', 'bytes', 'source'), rows)}"
    )
