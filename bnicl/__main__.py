"""The command line: `bnicl chapters` and `bnicl run CHAPTER -p NAME VALUE ...`.

Exit codes: 0 done, 1 a cell of the chapter raised, 2 the call was wrong (and nothing was written),
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from bnicl import runs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "chapters":
            _chapters()
        else:
            _run(arguments)
    except (ValueError, OSError) as error:
        print(f"bnicl: {error}", file=sys.stderr)
        return 2
    except runs.RunFailed as error:
        print(f"bnicl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bnicl: interrupted; nothing of this run is kept", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bnicl: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bnicl", description="Run the chapters of the book as programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("chapters", help="list the chapters and their parameters")
    run = commands.add_parser("run", help="execute a chapter with other parameters")
    run.add_argument("chapter", help="a name that `bnicl chapters` lists")
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--profile", choices=runs.PROFILES, help="scale of the run (default: $BNICL_PROFILE or book)")
    run.add_argument("--out", default="runs", metavar="DIR", help="where the run's folder goes (default: runs)")
    return parser


def _chapters() -> None:
    for name in runs.chapters():
        print(f"{name}: {runs.title_of(name)}")
        for line in runs.parameters_of(name).values():
            print(f"  -p {line.name} {line.type_name}, default {line.default}: {line.comment}")


def _run(arguments: argparse.Namespace) -> None:
    given: dict[str, str] = {}
    for name, value in arguments.parameters:
        if name in given:
            raise ValueError(f"parameter {name}: expected once, got {given[name]!r} and {value!r}")
        given[name] = value
    if arguments.profile and "profile" in given:
        raise ValueError(f"profile: expected once, got {arguments.profile!r} and {given['profile']!r}")
    profile = given.pop("profile", arguments.profile)
    folder = runs.run_chapter(arguments.chapter, given, arguments.out, profile)
    print(f"finished: {folder}/chapter.ipynb and manifest.json")


if __name__ == "__main__":
    sys.exit(main())
