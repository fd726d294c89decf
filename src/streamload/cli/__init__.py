"""The commands: `streamload demo | inspect | plan | manifest | verify | bench`.

Floor 7. Parses arguments, calls the room that does the work, prints what it returns. An error a user can cause
becomes one line on stderr and exit code 2; anything else is a bug, keeps its traceback and ends with 70. `_describe`
turns checkpoints and plans into tables; a command of many options has a file of its own.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
import traceback
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import __version__
from .._checkpoint import open as open_checkpoint
from ..errors import StreamloadError
from ..options import StreamOptions
from ._bench_from_pretrained import from_pretrained
from ._bench_overlap import overlap
from ._bench_source import source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._checkpoint import Checkpoint

__all__ = ["main"]

_EXTRAS = {"torch": "torch", "numpy": "torch", "safetensors": "torch", "matplotlib": "demo", "transformers": "test"}
_LEAST_WIDTH, _MOST_WIDTH = 60, 160
_BUG = 70  # EX_SOFTWARE of sysexits.h; Python's own is 1, which `verify` and `demo` give a meaning
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # what a shell reports for a command that SIGINT or SIGPIPE ended


class _Refusal(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"streamload: {self.format_message()}", err=True)


class _Group(click.Group):
    """Turn the errors a user can cause into refusals."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Before the first word is printed. A path may hold bytes that are no text, a name any character.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
            ctx.exit(_PIPE_CLOSED)  # quietly; click's own is 1, as below
        except KeyboardInterrupt:
            click.echo("streamload: interrupted", err=True)
            ctx.exit(_INTERRUPTED)  # click's own is 1, which `verify` and `demo` give a meaning
        except (StreamloadError, OSError, ModuleNotFoundError) as error:
            raise _Refusal(_one_line(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception:
            traceback.print_exc()
            ctx.exit(_BUG)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamload")
def main() -> None:
    """Stream safetensors weights onto a GPU while the model already computes."""


@main.command()
@click.argument("path")
@click.option("--tensors", is_flag=True, help="List every tensor, not only the layers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(path: str, *, tensors: bool, as_json: bool) -> None:
    """Show what a checkpoint holds: shards, layers, dtypes, bytes. Reads headers only."""
    from ._describe import describe_checkpoint, inspect_tables

    with _opened(path) as checkpoint:
        if as_json:
            click.echo(json.dumps(describe_checkpoint(checkpoint), indent=2))
        else:
            click.echo(inspect_tables(checkpoint, tensors=tensors))


@main.command()
@click.argument("path")
@click.option("--chunk-bytes", type=int, help="Largest single read, in bytes.  [default: the engine's]")
@click.option("--device", help="Predict times on this device, such as h100, a100-80g, l4 or rtx4090.")
@click.option("--device-memory", help="What weights may take of it, such as 20GB.  [default: nine tenths]")
@click.option("--storage", help="page-cache, nvme, or a rate such as 14GB/s.  [default: page-cache]")
@click.option("--link", help="Rate of the link, such as 55GB/s.  [default: the device's]")
@click.option("--tokens", multiple=True, help="Prompt lengths; several times or 128,2048.  [default: 128,2048,8192]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(
    path: str,
    *,
    chunk_bytes: int | None,
    device: str | None,
    device_memory: str | None,
    storage: str | None,
    link: str | None,
    tokens: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how a checkpoint would be read: groups, reads, copies and bytes per layer. Reads headers only.

    With --device: the memory it needs there, when the first token would come, and how fast passes would be if it does
    not fit. Predicted from a table of devices; config.json beside the checkpoint is read too.
    """
    from ._describe import describe_plan, plan_table

    if device is None and (tokens or any(given is not None for given in (device_memory, storage, link))):
        raise click.UsageError("--device-memory, --storage, --link and --tokens are of a device; give --device too")
    with _bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        if chunk_bytes is not None:
            options = replace(
                options, chunk_bytes=chunk_bytes, staging_bytes=max(options.staging_bytes, 2 * chunk_bytes)
            )
    if device is not None:
        from ._forecast import describe_forecast, forecast_layers, forecast_text

        with _opened(path) as checkpoint, _bad_values_refused():
            found = forecast_layers(
                checkpoint,
                options,
                device=device,
                device_memory=device_memory,
                link=link,
                storage=storage or "page-cache",
                tokens=tokens,
            )
        click.echo(json.dumps(describe_forecast(found), indent=2) if as_json else forecast_text(found))
        return
    with _opened(path) as checkpoint:
        layers = describe_plan(checkpoint, chunk_bytes=options.chunk_bytes)
    if as_json:
        described = {"chunk_bytes": options.chunk_bytes, "layers": [asdict(layer) for layer in layers]}
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo(plan_table(layers, chunk_bytes=options.chunk_bytes))


@main.command()
@click.argument("path")
@click.option("--manifest", "file", type=click.Path(dir_okay=False), help="Write here.  [default: beside the shards]")
def manifest(path: str, *, file: str | None) -> None:
    """Sum every byte of a checkpoint and write the checksums down, for verify and for loads that check."""
    from .._verify import make_manifest
    from ._describe import describe_summed

    with _bad_values_refused():
        summed = make_manifest(path, manifest=file, options=StreamOptions.from_env(os.environ))
    click.echo(describe_summed(summed))


@main.command()
@click.argument("path")
@click.option("--manifest", "file", type=click.Path(), help="Compare with this.  [default: beside the shards]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a list.")
def verify(path: str, *, file: str | None, as_json: bool) -> None:
    """Read every byte of a checkpoint once and compare it with its manifest.

    Exits with 0 if every byte is right, with 1 if something is wrong, with 2 if that could not be found out.
    What the page cache holds is read from there; STREAMLOAD_OPTION_DIRECT_IO=true asks the drive for every byte.
    """
    from .._verify import verify as compare
    from ._describe import describe_verdict, verdict_text

    with _bad_values_refused():
        verdict = compare(path, manifest=file, options=StreamOptions.from_env(os.environ))
    if as_json:
        click.echo(json.dumps(describe_verdict(verdict), indent=2))
    else:
        click.echo(verdict_text(verdict, unicode=_speaks_unicode()))
    sys.exit(0 if verdict.right else 1)


@main.command()
@click.option("--model", type=click.Path(), help="A real checkpoint's directory, instead of one made here.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    default="streamload-demo",
    show_default=True,
    help="Where the checkpoint and the results go; kept and used again.",
)
@click.option("--device", default="auto", show_default=True, help='"cpu", "cuda:0", or a GPU if there is one.')
@click.option("--scale", type=click.Choice(["tiny", "small", "large"]), default="small", show_default=True)
@click.option("--tokens", type=click.IntRange(1), help="Length of the prompt.  [default: by scale]")
@click.option("--link", type=click.FloatRange(0, min_open=True), help="Rate of the simulated link, in GB/s.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Pairs of runs.")
def demo(
    *,
    model: str | None,
    directory: str,
    device: str,
    scale: str,
    tokens: int | None,
    link: float | None,
    repeat: int,
) -> None:
    """Watch a model compute while its own weights arrive.

    Loads one checkpoint the usual way and streamed, checks that both give the same bits, and shows what happened
    when. Exits with 1 if the outputs differ or streaming was not faster. tiny is a few MB, small about 1 GB,
    large about 9 GB.
    """
    from .._demo import DemoSettings, run_demo

    settings = DemoSettings(
        directory=Path(directory),
        model=None if model is None else Path(model),
        device=device,
        scale=scale,
        tokens=tokens,
        link_bytes_per_second=None if link is None else link * 1e9,
        repeat=repeat,
        width=min(max(shutil.get_terminal_size((100, 40)).columns, _LEAST_WIDTH), _MOST_WIDTH),
        unicode=_speaks_unicode(),
        command=_command(),
    )
    with _bad_values_refused():
        passed = run_demo(settings, say=click.echo)
    sys.exit(0 if passed else 1)


@main.group()
def bench() -> None:
    """Measure, against a ceiling and peers measured in the same process."""


@bench.command()
@click.argument("path", required=False)
@click.option("--device", default="cpu", show_default=True, help='"cpu" or "cuda:0".')
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Rounds; each runs everything.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file.")
@click.option("--cold", is_flag=True, help="Drop the files from the page cache before each run.")
@click.option("--tensors", type=click.IntRange(1), help="Make a checkpoint of that many tensors (without PATH).")
@click.option("--many-tensors", is_flag=True, help="Compare the same bytes in 300 tensors and in 20,000.")
def engine(
    path: str | None,
    *,
    device: str,
    repeat: int,
    json_path: str | None,
    cold: bool,
    tensors: int | None,
    many_tensors: bool,
) -> None:
    """Measure how fast a checkpoint reaches memory: the ceiling, streamload, and its peers.

    Without PATH a checkpoint of about 1 GB is made in a temporary directory.
    """
    from ..bench import PeerSettings, run_engine_bench, run_many_tensors_bench

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_path}: there is no such folder")
    if path is not None and (tensors is not None or many_tensors):
        raise click.UsageError("--tensors and --many-tensors make their own checkpoint; leave out PATH")
    if many_tensors and (cold or tensors is not None):
        raise click.UsageError("--many-tensors runs warm, with tensors of its own; leave out --cold and --tensors")
    with _bad_values_refused():
        result = (
            run_many_tensors_bench(device=device, repeat=repeat, command=_command())
            if many_tensors
            else run_engine_bench(
                path,
                device=device,
                repeat=repeat,
                cold=cold,
                tensors=tensors,
                peer_settings=PeerSettings.from_env(os.environ),
                command=_command(),
            )
        )
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")


bench.add_command(overlap)
bench.add_command(from_pretrained)
bench.add_command(source)


def _command() -> str:
    return shlex.join(["streamload", *sys.argv[1:]])


def _speaks_unicode() -> bool:
    try:
        "░█·…–".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _opened(path: str) -> Iterator[Checkpoint]:
    with _bad_values_refused():
        checkpoint = open_checkpoint(path)
    with checkpoint:
        yield checkpoint


@contextmanager
def _bad_values_refused() -> Iterator[None]:
    """Turn a ValueError about what the user typed into a refusal."""
    try:
        yield
    except ValueError as error:
        raise _Refusal(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    from ._describe import printable

    return printable(_what_happened(error))


def _what_happened(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this needs {error.name}: pip install 'streamload[{_EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
