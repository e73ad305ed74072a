"""The command line: `bnicl chapters`, `bnicl run CHAPTER -p NAME VALUE ...` and `bnicl sweep FILE`.

Exit codes: 0 done, 1 a run failed, 2 the call was wrong (and nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bnicl import cluster, parameters, runs, sweeps, tables
from bnicl.parameters import PROFILES, RESULTS, ROOT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "chapters":
            _chapters()
        elif arguments.command == "run":
            _run(arguments)
        else:
            return _sweep(arguments)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"bnicl: {error}", file=sys.stderr)
        return 2
    except runs.RunFailed as error:
        print(f"bnicl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = "what has finished is kept" if arguments.command == "sweep" else "nothing of this run is kept"
        print(f"bnicl: interrupted; {kept}", file=sys.stderr)
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
    run.add_argument("--profile", choices=PROFILES, help="scale of the run (default: $BNICL_PROFILE or book)")
    run.add_argument("--out", default="runs", metavar="DIR", help="where the run's folder goes (default: runs)")
    sweep = commands.add_parser("sweep", help="execute the runs that a file describes, those that are missing")
    sweep.add_argument("file", help="a sweep file, such as sweeps/estimators.yml")
    only = sweep.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="only list the runs, with an estimate of the time")
    only.add_argument("--collect", action="store_true", help="only join the tables of the runs that have finished")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=_positive, metavar="K", help="processes (default: what the machine has room for)"
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, tcp://HOST:PORT")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="where the runs' folders go (default: runs/NAME)")
    sweep.add_argument("--results", type=Path, metavar="DIR", help="where the table goes (default: results)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _chapters() -> None:
    for name in parameters.chapters():
        print(f"{name}: {parameters.title_of(name)}")
        for line in parameters.parameters_of(name).values():
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


def _sweep(arguments: argparse.Namespace) -> int:
    sweep = sweeps.load_sweep(arguments.file)
    out = arguments.out or Path("runs") / sweep.name
    if arguments.dry_run:
        _list(sweep, out, arguments.workers)
        return 0
    ours = Path(arguments.file).resolve().parent == ROOT / "sweeps"
    results = arguments.results or (RESULTS if ours else Path("results"))
    results.mkdir(parents=True, exist_ok=True)
    if not os.access(results, os.W_OK):
        raise PermissionError(f"results: expected a folder that can be written to, got {results}")
    failures: dict[str, str] = {}
    if not arguments.collect:
        for part, n in sweeps.stale(sweep, out).items():
            print(f"stale: {part} has changed since {n} runs in {out} were made; they do not count")
        failures = sweeps.run_sweep(sweep, out, workers=arguments.workers, scheduler=arguments.scheduler)
    if failures:
        print(f"failed: {len(failures)} of {len(sweep)} runs, named above; the same call tries them again")
    if not (arguments.collect or sweeps.state_of(sweep, out)):
        return 1
    collected = tables.collect(sweep, out, results)
    done = len(sweeps.state_of(sweep, out)) - len(collected.odd)
    print(f"collected: {done} of {len(sweep)} runs in {collected.path}")
    for name, problem in collected.odd.items():
        print(f"left out: {name}, {problem}", file=sys.stderr)
    return 0 if done == len(sweep) else 1


def _list(sweep: sweeps.Sweep, out: Path, workers: int | None) -> None:
    done = sweeps.state_of(sweep, out)
    for run in sweep.runs:
        state = f"finished in {done[run.name]['seconds']:.0f} s" if run.name in done else "to do"
        print(f"{run.name}  {state}  " + ", ".join(f"{name}={value}" for name, value in run.given.items()))
    each, left = sweeps.seconds_each(sweep, out), len(sweep) - len(done)
    estimate = "no run of it is known yet, so no estimate of the time"
    if each:
        workers = workers or cluster.fitting_workers()
        minutes = each * -(-left // workers) / 60
        estimate = f"about {minutes:.0f} min with {workers} workers ({each:.0f} s a run, by earlier ones)"
    print(f"{len(sweep)} runs, {left} of them to do: {estimate}")


if __name__ == "__main__":
    sys.exit(main())
