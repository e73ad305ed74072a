"""The command line: `bnicl chapters`, `bnicl run CHAPTER -p NAME VALUE ...`, `bnicl sweep FILE`, and for a reader's own
network and rows `bnicl predict` and `bnicl generate`.

Exit codes: 0 done, 1 a run failed, 2 the call was wrong (and nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # each command imports what it needs when it is called, so that --help is fast
    from bnicl.batch.sweeps import Sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", UserWarning)
            code = _call(arguments)
        for warning in seen:  # ours in one line; what libraries say of themselves is not the reader's concern
            if warning.category is UserWarning:
                print(f"bnicl: warning: {_one_line(warning.message)}", file=sys.stderr)
        return code
    except BrokenPipeError:  # the reader of the pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        print(f"bnicl: {_one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # how torch reports memory that it could not get
        if "allocate memory" not in str(error):
            raise
        print("bnicl: memory: expected enough for this call, got less", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "what has finished is kept" if arguments.command == "sweep" else "nothing of this run is kept"
        print(f"bnicl: interrupted; {kept}", file=sys.stderr)
        return 130


def _call(arguments: argparse.Namespace) -> int:
    if arguments.command in ("predict", "generate"):
        from bnicl import commands

        (commands.predict if arguments.command == "predict" else commands.generate)(arguments)
        return 0
    if arguments.command == "chapters":
        _chapters()
        return 0
    from bnicl.batch.runs import RunFailed

    try:
        return _run(arguments) if arguments.command == "run" else _sweep(arguments)
    except RunFailed as error:
        print(f"bnicl: {error}", file=sys.stderr)
        return 1


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, and accepts -5e-4 as a number."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bnicl: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bnicl", description="Run the chapters of the book as programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("chapters", help="list the chapters and their parameters")
    run = commands.add_parser("run", help="execute a chapter with other parameters")
    run.add_argument("chapter", help="a name that `bnicl chapters` lists")
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument(
        "--profile", metavar="PROFILE", help="scale of the run: smoke, book or paper (default: $BNICL_PROFILE or book)"
    )
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
    sweep.add_argument("--profile", metavar="PROFILE", help="another scale than the file's; see `bnicl run --help`")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="where the runs' folders go (default: runs/NAME)")
    sweep.add_argument("--results", type=Path, metavar="DIR", help="where the table goes (default: results)")
    _add_own(commands)
    return parser


def _add_own(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The two commands for a network and rows of the reader's own."""
    predict = commands.add_parser("predict", help="what rows of your own say of a node, whatever else is known")
    predict.add_argument("--target", required=True, metavar="NODE")
    predict.add_argument(
        "--given", nargs="*", action="extend", default=[], metavar="NODE=STATE", help="causes, effects, any or none"
    )
    predict.add_argument("--queries", type=Path, metavar="FILE.csv", help="many questions, an empty cell is unknown")
    predict.add_argument("--out", type=Path, metavar="FILE.csv", help="where their answers go")
    predict.add_argument(
        "--samples", type=_positive, metavar="K", help="weighted samples, where the exact sum is too wide"
    )
    generate = commands.add_parser("generate", help="new rows from a network and rows of your own")
    generate.add_argument("-n", type=_positive, default=1000, metavar="ROWS", help="how many (default: 1000)")
    generate.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="also FILE.png and FILE.json")
    for own in (predict, generate):
        own.add_argument("--network", required=True, help="a .bif file, an edge list (parent,child) or a known name")
        own.add_argument("--context", required=True, metavar="FILE.csv", help="rows, a column for each node")
        own.add_argument("--estimator", choices=("mle", "posterior-mean"), default="mle", help="of the tables")
        own.add_argument("--alpha", type=_number, help="of the posterior mean (default: 0.5)")
        own.add_argument(
            "--missing", choices=("refuse", "available", "em"), default="refuse", help="cells without a value"
        )
        own.add_argument(
            "--train",
            type=_number,
            metavar="SECONDS",
            help="train a transformer for this graph, not build it",
        )
        own.add_argument("--seed", type=int, default=0)
        own.add_argument("--force", action="store_true", help="replace what is there")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    if int(text) > 10**8:
        raise argparse.ArgumentTypeError(f"expected at most 100,000,000, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _chapters() -> None:
    from bnicl.batch import parameters

    for name in parameters.chapters():
        print(f"{name}: {parameters.title_of(name)}")
        for line in parameters.parameters_of(name).values():
            print(f"  -p {line.name} {line.type_name}, default {line.default}: {line.comment}")


def _run(arguments: argparse.Namespace) -> int:
    from bnicl.batch import runs

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
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from bnicl.batch import sweeps, tables
    from bnicl.batch.parameters import RESULTS, ROOT

    sweep = sweeps.load_sweep(arguments.file, arguments.profile)
    out = arguments.out or Path("runs") / sweep.name
    if arguments.dry_run:
        _list(sweep, out, arguments.workers)
        return 0
    ours = ROOT / "sweeps" in Path(arguments.file).resolve().parents
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


def _list(sweep: Sweep, out: Path, workers: int | None) -> None:
    from bnicl.batch import cluster, sweeps

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
