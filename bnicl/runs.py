"""Chapters as programs: profiles, checked parameters, a folder and a manifest for every run.

A chapter has one cell tagged `parameters`, each line `name: type = default  # comment`. The types are
those of `TYPES`; a default may be `by_profile(...)`. `run_chapter` checks what it is given against them
before a kernel starts, executes the notebook with papermill and leaves a folder with

    chapter.ipynb   the executed notebook
    *.csv           the tables that the chapter saved (`save_table`)
    manifest.json   parameters, profile, commit, versions, hardware, seconds

The folder appears under its name only when the run has ended.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import torch
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

import bnicl
from bnicl.estimators import Unmatched
from bnicl.networks import check_source, load_network

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
_STARTED = time.perf_counter()

# --- profiles -------------------------------------------------------------------------------------

Profile = Literal["smoke", "book", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


def check_profile(name: str) -> Profile:
    """`name` if it is a profile; a ValueError if not."""
    if name not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return name


def current_profile() -> Profile:
    """The profile that the environment variable BNICL_PROFILE names, by default "book"."""
    return check_profile(os.environ.get("BNICL_PROFILE", "book"))


def by_profile(book: T, smoke: T, paper: T | None = None) -> T:
    """The value for the current profile; `paper` is that of the book where it is not given.

    >>> by_profile(book=200, smoke=200)
    200
    """
    values = {"smoke": smoke, "book": book, "paper": book if paper is None else paper}
    return values[current_profile()]


# --- parameters -----------------------------------------------------------------------------------


def _network(source: str) -> str:
    """A name, or the whole path of a file: the notebook runs in another folder."""
    if not check_source(source).endswith(".bif"):
        return source
    load_network(source)  # a broken file is refused here, before anything starts
    return str(Path(source).resolve())


def _different(items: list[T]) -> list[T]:
    if len(set(items)) != len(items):
        raise ValueError("each at most once")
    return items


NetworkName = Annotated[str, AfterValidator(_network)]
NetworkNames = Annotated[list[NetworkName], Field(min_length=1), AfterValidator(_different)]
Count = Annotated[int, Field(ge=10, le=1_000_000)]  # of things drawn
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
ContextSizes = Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1), AfterValidator(_different)]
TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "Count": Count,
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "Probability": Probability,
    "NetworkName": NetworkName,
    "NetworkNames": NetworkNames,
    "ContextSizes": ContextSizes,
    "Unmatched": Unmatched,
}


class Parameter(NamedTuple):
    """One line of a chapter's parameters cell."""

    name: str
    type_name: str
    default: str
    comment: str

    def check(self, value: Any) -> Any:
        """`value`, or its text from a command line, as this parameter's type; a ValueError if it is not.

        A list is its items separated by commas.
        """
        adapter = TypeAdapter(TYPES[self.type_name])
        if isinstance(value, str) and self.type_name in ("NetworkNames", "ContextSizes"):
            value = [item.strip(" \"'") for item in value.strip("[] ").split(",")]
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            reason = problem["msg"].removeprefix("Value error, ")
            raise ValueError(f"parameter {self.name}: expected {self.type_name}, got {value!r} ({reason})") from error

    def value(self) -> Any:
        """The default under the current profile."""
        # The expression is a line of a chapter, which is about to be executed whole.
        return self.check(eval(self.default, {"__builtins__": {}, "by_profile": by_profile}))  # noqa: S307


def chapters() -> dict[str, Path]:
    """Every chapter by name, in the order of the table of contents' file names."""
    return {path.stem: path for path in sorted(BOOK.glob("*.ipynb"))}


def chapter_path(name: str) -> Path:
    """The notebook of a chapter; a ValueError with the nearest name if there is none."""
    known = chapters()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"chapter: expected one of {', '.join(known)}, got {name!r}{hint}")
    return known[name]


def _cells(notebook: Path) -> list[str]:
    """The source of every cell: what a chapter says and does, without its outputs."""
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]


def title_of(chapter: str) -> str:
    """The heading of a chapter."""
    return _cells(chapter_path(chapter))[0].splitlines()[0].removeprefix("# ")


def parameters_of(chapter: str) -> dict[str, Parameter]:
    """The parameters of a chapter, read from its notebook without running it."""
    import papermill

    found = papermill.inspect_notebook(str(chapter_path(chapter)))
    return {
        name: Parameter(name, line["inferred_type_name"], line["default"], line["help"]) for name, line in found.items()
    }


def check_parameters(chapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run, those given checked and the others by default; a ValueError if one is wrong."""
    declared = parameters_of(chapter)
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"parameter: expected one of {', '.join(declared)}, got {name!r}{hint}")
    return {name: line.check(given[name]) if name in given else line.value() for name, line in declared.items()}


# --- provenance -----------------------------------------------------------------------------------


def code_version() -> str:
    """Twelve hexadecimal digits that change whenever a module of bnicl does."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "bnicl").glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        edited = git("status", "--porcelain", "--untracked-files=no", "--", "bnicl")
        return git("rev-parse", "--short=12", "HEAD") + ("+edited" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown (not a git checkout)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """What a run depends on besides its parameters: profile, code, versions and hardware."""
    packages = ("torch", "numpy", "pgmpy", "pandas")
    return {
        "profile": current_profile(),
        "commit": _commit(),
        "code": code_version(),
        "versions": {
            "bnicl": bnicl.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "hardware": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def provenance() -> None:
    """Prints what made the numbers of the notebook it is called in; the last cell of every chapter."""
    made = environment()
    print(f"profile   {made['profile']}")
    print(f"code      commit {made['commit']}, bnicl {made['code']}")
    print("versions  " + ", ".join(f"{name} {version}" for name, version in made["versions"].items()))
    gpu = made["hardware"]["gpu"]
    print(f"hardware  {made['hardware']['cores']} cores of {made['hardware']['cpu']}, " + (gpu or "no GPU"))
    print(f"finished  {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {time.perf_counter() - _STARTED:.0f} s after it began")


# --- runs -----------------------------------------------------------------------------------------


def save_table(table: pd.DataFrame, name: str) -> None:
    """Keeps a chapter's table as NAME.csv in the folder of the run; nothing outside `bnicl run`."""
    if folder := os.environ.get("BNICL_RUN"):
        partial = Path(folder) / f".{name}.csv"
        table.to_csv(partial, index=False)
        partial.rename(Path(folder) / f"{name}.csv")


def load_results(name: str) -> pd.DataFrame:
    """The committed table results/NAME.csv; a ValueError with the nearest name if there is none."""
    import pandas as pd

    path = ROOT / "results" / f"{name}.csv"
    if not path.exists():
        known = sorted(other.stem for other in path.parent.glob("*.csv"))
        raise ValueError(f"results: expected one of {', '.join(known)}, got {name!r}")
    return pd.read_csv(path)


class RunFailed(Exception):
    """A cell of a chapter raised; the message says which, and where the notebook is."""


def run_chapter(
    chapter: str, given: Mapping[str, Any] | None = None, out: Path | str = "runs", profile: str | None = None
) -> Path:
    """Executes a chapter with other parameters and returns the folder of the run.

    The folder is OUT/CHAPTER-HASH, the hash being that of the chapter, its parameters, the profile and
    the package: the same call again replaces it. Raises ValueError for a bad parameter before anything is
    written, and RunFailed where a cell raises: the notebook up to that cell is then in CHAPTER-HASH-failed.
    """
    import papermill

    source = chapter_path(chapter)
    with _environ(BNICL_PROFILE=check_profile(profile) if profile else current_profile()):
        parameters = check_parameters(chapter, given or {})
        manifest: dict[str, Any] = {"chapter": chapter, "parameters": parameters, **environment()}
        manifest["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        identity = [
            hashlib.sha256(source.read_bytes()).hexdigest(),
            parameters,
            manifest["profile"],
            manifest["code"],
        ]
        name = f"{chapter}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]}"
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out)).resolve()
        begin = time.perf_counter()
        try:
            with _environ(BNICL_RUN=str(folder)):
                papermill.execute_notebook(
                    str(source),
                    str(folder / "chapter.ipynb"),
                    parameters={key: parameters[key] for key in given or {}},
                    kernel_name="python3",
                    cwd=str(folder),
                )
            manifest["status"] = "finished"
        except papermill.PapermillExecutionError as error:
            manifest["status"], manifest["error"] = (
                "failed",
                f"cell {error.exec_count}: {error.ename}: {error.evalue}",
            )
            name = f"{name}-failed"
        except BaseException:  # an interrupt or a full disk: nothing half-written is left
            shutil.rmtree(folder, ignore_errors=True)
            raise
        manifest["seconds"] = round(time.perf_counter() - begin, 2)
        manifest["tables"] = sorted(path.name for path in folder.glob("*.csv"))
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    folder.chmod(0o755)
    final = out / name
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    if manifest["status"] == "failed":
        raise RunFailed(f"{chapter}, {manifest['error']}; the notebook up to there is {final / 'chapter.ipynb'}")
    return final


@contextmanager
def _environ(**values: str) -> Iterator[None]:
    """Environment variables for the kernels started inside, as they were before afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
