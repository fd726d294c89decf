"""The commands: `streamload demo | inspect | plan | pull | manifest | verify | cache | doctor | coldstart | bench |
report`.

Floor 8. Parses arguments, calls the room that does the work, prints what it returns. An error a user can cause
becomes one line on stderr and exit code 2; anything else is a bug, keeps its traceback and ends with 70. Each command
has a file of its own; `_common` holds what they share, `_describe` turns checkpoints and plans into tables.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Final

import click

from .. import __version__
from ..errors import StreamloadError
from ._bench import bench
from ._cache import cache
from ._coldstart import coldstart
from ._common import Refusal, one_line
from ._demo import demo
from ._doctor import doctor
from ._inspect import inspect, plan
from ._pull import pull
from ._report import report
from ._verify import manifest, verify

__all__ = ["main"]

_BUG: Final = 70  # EX_SOFTWARE of sysexits.h; Python's own is 1, which `verify` and `demo` give a meaning
_INTERRUPTED: Final = 130  # what a shell reports for a command that SIGINT ended
_PIPE_CLOSED: Final = 141  # the same for SIGPIPE


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
            raise Refusal(one_line(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception:
            traceback.print_exc()
            ctx.exit(_BUG)


@click.group(
    cls=_Group,
    commands=[inspect, plan, pull, manifest, verify, cache, doctor, demo, coldstart, bench, report],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="streamload")
def main() -> None:
    """Stream safetensors weights onto a GPU while the model already computes."""
