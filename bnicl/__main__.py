"""The command line: `bnicl chapters`, `bnicl run CHAPTER -p NAME VALUE ...`, `bnicl sweep FILE`, and for a reader's own
network and rows `bnicl predict` and `bnicl generate`.

Exit codes: 0 done, 1 a run failed, 2 the call was wrong (and nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from bnicl import cluster, parameters, runs, sweeps, tables
from bnicl.construction import construct_mle_transformer
from bnicl.encoding import ABSENT
from bnicl.generation import generate_from
from bnicl.parameters import PROFILES, RESULTS, ROOT
from bnicl.recipes import TrainingConfig
from bnicl.rows import Counts, count_rows, read_edges, read_rows, write_rows
from bnicl.sources import load_network, write_graph
from bnicl.training import train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "chapters":
            _chapters()
        elif arguments.command == "run":
            _run(arguments)
        elif arguments.command == "predict":
            _predict(arguments)
        elif arguments.command == "generate":
            _generate(arguments)
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
    predict = commands.add_parser("predict", help="what rows of your own say of a node, given its parents")
    predict.add_argument("--target", required=True, metavar="NODE")
    predict.add_argument("--given", nargs="*", default=[], metavar="NODE=STATE", help="its parents' states at least")
    generate = commands.add_parser("generate", help="new rows from a network and rows of your own")
    generate.add_argument("-n", type=_positive, default=1000, metavar="ROWS", help="how many (default: 1000)")
    generate.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="also FILE.png and FILE.json")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--force", action="store_true", help="replace what is there")
    for own in (predict, generate):
        own.add_argument("--network", required=True, help="a .bif file, an edge list (parent,child) or a known name")
        own.add_argument("--context", required=True, metavar="FILE.csv", help="rows, a column for each node")
        own.add_argument(
            "--train", type=float, metavar="SECONDS", help="train a transformer for this graph instead of building one"
        )
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


def _answers(arguments: argparse.Namespace) -> tuple[Counts, Callable[[Tensor, int], Tensor]]:
    """The counts of the reader's rows, and a function of queries and a target."""
    source = arguments.network
    listed = Path(source).is_file() and not source.endswith(".bif")
    net = read_edges(source, arguments.context) if listed else load_network(source)
    counts = count_rows(arguments.context, net)
    if arguments.train is None:
        return counts, construct_mle_transformer(net, max_context=counts.n, variant="causal").counted(counts)
    with tempfile.TemporaryDirectory(prefix="bnicl-") as folder:
        if listed:
            source = str(Path(folder) / "graph.bif")
            write_graph(source, net)
        run = train(TrainingConfig(graph=source, seconds=arguments.train))
    return counts, run.conditioned(read_rows(arguments.context, net))


def _predict(arguments: argparse.Namespace) -> None:
    counts, predict = _answers(arguments)
    net = counts.net
    given = {}
    for text in arguments.given:
        name, _, state = text.partition("=")
        if name not in net.names or name in given:
            raise ValueError(f"--given: expected NODE=STATE, each node of {', '.join(net.names)} once, got {text!r}")
        known = [str(s) for s in net.states[net.names.index(name)]]
        if state not in known:
            raise ValueError(f"--given: expected one of {', '.join(known)} for {name}, got {state!r}")
        given[name] = known.index(state)
    if arguments.target not in net.names:
        raise ValueError(f"--target: expected one of {', '.join(net.names)}, got {arguments.target!r}")
    target = net.names.index(arguments.target)
    if unknown := [net.names[p] for p in net.parents[target] if net.names[p] not in given]:
        raise ValueError(
            f"--given: expected a state for every parent of {arguments.target}, got none for {', '.join(unknown)}"
        )
    query = torch.tensor([[given.get(name, ABSENT) for name in net.names]])
    for state, p in zip(net.states[target], predict(query, target)[0].tolist(), strict=True):
        print(f"{p:8.4f}  {arguments.target}={state}")
    print(f"{int(counts.matching(query, target)):,} of {counts.n:,} rows have these parents")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _generate(arguments: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt

    from bnicl import figures

    out = arguments.out
    if out.suffix != ".csv":
        raise ValueError(f"out: expected a file that ends in .csv, got {str(out)!r}")
    files = [out.with_suffix(suffix) for suffix in (".csv", ".png", ".json")]
    for path in files:
        if path.exists() and not arguments.force:
            raise FileExistsError(f"out: expected a new file, got {path}, which exists; --force replaces it")
    counts, predict = _answers(arguments)
    new = generate_from(predict, counts.net.n_nodes, arguments.n, arguments.seed)
    figure = figures.marginals(counts, Counts.of([new], counts.net))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bnicl-") as folder:
        parts = [Path(folder) / path.name for path in files]
        write_rows(parts[0], counts.net, new)
        figure.savefig(parts[1], dpi=150)
        plt.close(figure)
        inputs = [Path(name) for name in (arguments.network, arguments.context) if Path(name).is_file()]
        manifest = {
            "call": {name: str(value) for name, value in vars(arguments).items() if name != "command"},
            "rows in the context": counts.n,
            "sha256": {**{str(path): _sha256(path) for path in inputs}, str(out): _sha256(parts[0])},
            **runs.environment(),
        }
        parts[2].write_text(json.dumps(manifest, indent=1) + "\n")
        for part, path in zip(parts, files, strict=True):
            part.replace(path)
    print(f"finished: {arguments.n:,} rows in {out}, from {counts.n:,}; figure and manifest beside it")


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
