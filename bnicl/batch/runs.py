"""Chapters as programs: one run of a chapter is a folder with a manifest.

`run_chapter` checks the parameters that it is given before a kernel starts, executes the notebook with
papermill and leaves a folder with

    chapter.ipynb   the executed notebook
    *.csv           the tables that the chapter saved (`save_table`)
    manifest.json   parameters, profile, code, versions, hardware, seconds, the digest of each table

The folder appears under its name only when the run has ended. The name holds a digest of everything the
tables depend on: the chapter's code, the modules it computes with, the parameters and the profile.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bnicl.batch.kernels import KEEP_MEMORY, environ, once_it_starts, own_kernel, remaining, this_bnicl_first
from bnicl.batch.parameters import (
    ROOT,
    Profile,
    chapter_path,
    check_parameters,
    check_profile,
    current_profile,
    results_path,
)
from bnicl.batch.staleness import code_of, code_version, digest
from bnicl.networks.sources import is_network_file

if TYPE_CHECKING:
    import pandas as pd

    from bnicl.training.trained import TrainedTransformer


_STARTED = time.perf_counter()

# --- provenance -----------------------------------------------------------------------------------


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
    return {
        "profile": current_profile(),
        "commit": _commit(),
        "code": code_version(),
        "versions": versions(),
        "hardware": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    packages = ("bnicl", "torch", "numpy", "pgmpy", "pandas")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def provenance() -> None:
    """Prints what made the numbers of the notebook it is called in; the last cell of every chapter."""
    made = environment()
    print(f"profile   {made['profile']}")
    print(f"code      commit {made['commit']}, bnicl {made['code']}")
    print("versions  " + ", ".join(f"{name} {version}" for name, version in made["versions"].items()))
    gpu = made["hardware"]["gpu"]
    print(f"hardware  {made['hardware']['cores']} cores of {made['hardware']['cpu']}, " + (gpu or "no GPU"))
    print(f"finished  {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {time.perf_counter() - _STARTED:.0f} s after it began")


def committed_seconds(chapter: str, profile: str) -> float | None:
    """The seconds that `provenance` printed in the committed chapter, if it ran with this profile; else None."""
    cells = [cell for cell in json.loads(chapter_path(chapter).read_text())["cells"] if cell.get("outputs")]
    printed = "".join("".join(output.get("text", "")) for output in cells[-1]["outputs"]) if cells else ""
    found = re.search(rf"profile +{profile}\n.* (\d+) s after it began", printed, flags=re.DOTALL)
    return float(found[1]) if found else None


# --- tables ---------------------------------------------------------------------------------------


def save_table(table: pd.DataFrame, name: str) -> None:
    """Keeps a chapter's table as NAME.csv in the folder of the run; nothing outside `bnicl run`."""
    if folder := os.environ.get("BNICL_RUN"):
        partial = Path(folder) / f".{name}.csv"
        table.to_csv(partial, index=False)
        partial.rename(Path(folder) / f"{name}.csv")


def keep_weights(run: TrainedTransformer, name: str) -> None:
    """Keeps a chapter's trained transformer as NAME.safetensors in the run's folder; nothing outside `bnicl run`."""
    from bnicl.training.checkpoint import save_weights

    if folder := os.environ.get("BNICL_RUN"):
        save_weights(run, Path(folder) / f"{name}.safetensors")


def published(chapter: str, values: Mapping[str, Any]) -> bool:
    """Whether a chapter runs as its text has it: in the profile "book", with its own parameters.

    chapter: its name. values: the parameters by name, such as the notebook's `globals()`. Statements of the text about
    the run of the page are asserted where this is True, and nowhere else.
    """
    own = check_parameters(chapter, {})
    return current_profile() == "book" and all(values[name] == value for name, value in own.items())


def load_results(name: str) -> pd.DataFrame:
    """The committed table results/NAME.csv, or the table at a path that ends in .csv.

    Raises ValueError if there is no such table (with the names that exist), and if the table is not the one that
    the provenance next to it (NAME.json) describes: cut short, or edited by hand.
    """
    import pandas as pd

    path = results_path(name)
    made = path.with_suffix(".json")
    expected = json.loads(made.read_text()).get("sha256") if made.exists() else None
    if expected and expected != digest(path.read_bytes()):
        raise ValueError(f"results: {path} is not the table that {made.name} describes; collect it again")
    return pd.read_csv(path)


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of a chapter: what is given, all parameters with that, the profile, the digests of code and files."""

    chapter: str
    given: Mapping[str, Any]
    parameters: Mapping[str, Any]
    profile: Profile
    code: Mapping[str, str]

    @property
    def name(self) -> str:
        """CHAPTER-DIGEST: the name of the run's folder."""
        identity = json.dumps([self.parameters, self.profile, self.code])
        return f"{Path(self.chapter).stem}-{digest(identity.encode())[:10]}"


class RunFailed(Exception):
    """A cell of a chapter raised or took too long; the message says which, and where the notebook is."""


def plan_run(chapter: str, given: Mapping[str, Any] | None = None, profile: str | None = None) -> Run:
    """The run of a chapter with these parameters, checked; a ValueError if one of them is wrong."""
    source = chapter_path(chapter)
    chosen = check_profile(profile) if profile else current_profile()
    with environ(BNICL_PROFILE=chosen):
        parameters = check_parameters(chapter, given or {})
    checked = {name: parameters[name] for name in given or {}}
    code = {**code_of(chapter), **files_of(parameters)}
    return Run(str(source) if chapter.endswith(".ipynb") else chapter, checked, parameters, chosen, code)


def files_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that parameters name: a network's, a table's .csv."""
    values = [item for value in parameters.values() for item in (value if isinstance(value, list) else [value])]
    named = [v for v in values if isinstance(v, str) and (is_network_file(v) or v.lower().endswith(".csv"))]
    paths = [path for path in map(Path, named) if path.is_file()]
    return {f"the file {path.name}": digest(path.read_bytes())[:12] for path in paths}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished run; None where there is none, or a table is not as the run left it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        whole = manifest["status"] == "finished" and (folder / "chapter.ipynb").exists()
        tables = manifest["tables"].items()
        whole = whole and set(manifest) >= {
            "parameters",
            "profile",
            "code",
            "versions",
            "hardware",
            "seconds",
            "started",
        }
        return manifest if whole and all(digest((folder / t).read_bytes()) == d for t, d in tables) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with it, it is not a finished run


def run_chapter(
    chapter: str, given: Mapping[str, Any] | None = None, out: Path | str = "runs", profile: str | None = None
) -> Path:
    """Executes a chapter with other parameters and returns the folder of the run.

    The folder is OUT/CHAPTER-DIGEST; the same call again replaces it. Raises ValueError for a bad parameter
    before anything is written, and RunFailed where a cell raises: the notebook up to that cell is then in
    CHAPTER-DIGEST-failed.
    """
    return execute(plan_run(chapter, given, profile), out, progress=True)


def execute(run: Run, out: Path | str, time_limit: float | None = None, progress: bool = False) -> Path:
    """Executes a run and returns its folder, OUT/NAME. Raises RunFailed as `run_chapter` does.

    A run that takes longer than `time_limit` seconds has failed too.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    begin = time.perf_counter()
    with environ(BNICL_PROFILE=run.profile):
        manifest: dict[str, Any] = {
            "name": run.name,
            "chapter": run.chapter,
            "parameters": dict(run.parameters),
            **environment(),
            "code": dict(run.code),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{run.name}-", dir=out)).resolve()
    error = ""
    try:
        own = {name: os.environ[name] for name in KEEP_MEMORY if name in os.environ}
        kernel = {"BNICL_PROFILE": run.profile, "BNICL_RUN": str(folder), "PYTHONPATH": this_bnicl_first()}
        with environ(**KEEP_MEMORY | own | kernel):
            once_it_starts(
                papermill.execute_notebook,
                str(chapter_path(run.chapter)),
                str(folder / "chapter.ipynb"),
                parameters=dict(run.given or _forgotten(run)),
                kernel_name="python3",
                kernel_manager_class=own_kernel(),
                language="python",
                cwd=str(folder),
                progress_bar=progress,
                timeout_func=remaining(time_limit),
                shutdown_kernel="immediate",
            )
    except papermill.PapermillExecutionError as problem:
        reason = (str(problem.evalue).splitlines() or [""])[0]
        error = f"cell {problem.exec_count}: {problem.ename}: {reason}"
    except CellTimeoutError:
        error = f"time limit: it took more than {time_limit:g} s"
    except DeadKernelError:
        error = "the kernel died (is the memory too small?)"
    except BaseException:  # an interrupt or a full disk: nothing half-written is left
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        manifest |= {"status": "failed", "error": error} if error else {"status": "finished"}
        manifest["seconds"] = round(time.perf_counter() - begin, 2)
        manifest["tables"] = {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("*.csv"))}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        folder.chmod(0o755)
        final = _replace(folder, out / (f"{run.name}-failed" if error else run.name))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if error:
        raise RunFailed(f"{run.chapter}, {error}; the notebook up to there is {final / 'chapter.ipynb'}")
    shutil.rmtree(out / f"{run.name}-failed", ignore_errors=True)
    return final


def _forgotten(run: Run) -> Mapping[str, Any]:
    """The defaults, for a notebook executed with other values: given none, papermill would leave those in place."""
    cells = json.loads(chapter_path(run.chapter).read_text())["cells"]
    injected = any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells)
    return run.parameters if injected else {}


def _replace(folder: Path, final: Path) -> Path:
    """Gives a folder its name; one that has it already is moved out of the way first."""
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        final.rename(old / "old")
        folder.rename(final)
        shutil.rmtree(old)
    else:
        folder.rename(final)
    return final
