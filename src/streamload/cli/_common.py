"""What the commands share: refusals, options of many commands, words for errors.

Part of `cli`.
"""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._checkpoint import Checkpoint
    from ..options import StreamOptions

__all__ = [
    "Refusal",
    "bad_values_refused",
    "command_line",
    "one_line",
    "opened",
    "speaks_unicode",
    "storage_option",
    "storage_options",
]

_EXTRAS: Final = {
    "torch": "torch",
    "numpy": "torch",
    "safetensors": "torch",
    "matplotlib": "demo",
    "transformers": "bench",
    "prometheus_client": "metrics",
    "vl_convert": "report",
}


class Refusal(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"streamload: {self.format_message()}", err=True)


storage_option = click.option(
    "--storage-option",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="For the store, as fsspec and s3fs know them, such as endpoint_url=https://... or anon=true; several times.",
)
"""The option of every command that takes a URL; `storage_options` reads what was given."""


def storage_options(given: tuple[str, ...]) -> dict[str, object] | None:
    """Return what `--storage-option` said: true and false, JSON objects and lists, all else as text.

    Raises:
        click.UsageError: A text has no `=`, an empty key, a key twice, or a value that begins as JSON and is none. The
            value is not repeated: it may be a secret.
    """
    options: dict[str, object] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError("--storage-option: expected KEY=VALUE, such as anon=true")
        if key in options:
            raise click.UsageError(f"--storage-option {key}: given twice")
        if value.lower() in ("true", "false"):
            options[key] = value.lower() == "true"
        elif value[:1] in ("{", "["):
            try:
                options[key] = json.loads(value)
            except ValueError:
                raise click.UsageError(f"--storage-option {key}: begins as JSON and is none") from None
        else:
            options[key] = value
    return options or None


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["streamload", *sys.argv[1:]])


def speaks_unicode() -> bool:
    """Whether stdout takes the characters of bars and dashes."""
    try:
        "░█·…–".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def opened(path: str, given: tuple[str, ...] = (), options: StreamOptions | None = None) -> Iterator[Checkpoint]:
    """Open a checkpoint for as long as the block runs; what is wrong with the text is refused."""
    from .._checkpoint import open as open_checkpoint

    chosen = storage_options(given)
    with bad_values_refused():
        checkpoint = open_checkpoint(path, storage_options=chosen, options=options)
    with checkpoint:
        yield checkpoint


@contextmanager
def bad_values_refused() -> Iterator[None]:
    """Turn an error about what the user typed into a refusal; a library that is missing is one, too."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise Refusal(one_line(error)) from error
    except TypeError as error:
        if "storage_options" not in str(error):
            raise
        raise Refusal(one_line(error)) from error


def one_line(error: Exception) -> str:
    """Say what happened in one line that a terminal may be shown."""
    from ._describe import printable

    return printable(_what_happened(error))


def _what_happened(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this needs {error.name}: pip install 'streamload[{_EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
