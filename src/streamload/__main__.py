"""`python -m streamload` is the command line, where the package is on the path but not installed.

Floor 8. Read next: `cli`.
"""

from .cli import main

if __name__ == "__main__":
    main(prog_name="streamload")
