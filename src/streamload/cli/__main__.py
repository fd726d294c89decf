"""`python -m streamload.cli`: the commands, where the package is on the path but not installed."""

from . import main

if __name__ == "__main__":
    main(prog_name="streamload")
