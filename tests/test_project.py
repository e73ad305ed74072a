"""What holds the tree together: dependencies, light imports, and the form of every chapter."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bnicl
from benchmarks import editions
from benchmarks.__main__ import END, START, as_markdown
from bnicl.batch import parameters
from tools.add_install_cell import with_cell
from tools.execute_chapters import README_FIGURE, README_IMAGE, figure

ROOT = Path(bnicl.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): version
    for name, version in (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
}


def requirements() -> list[Requirement]:
    listed = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [Requirement(line) for line in listed]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_within_its_bounds_and_installed_so(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin)
    assert importlib.metadata.version(requirement.name).split("+")[0] == pin


def test_the_conda_environment_installs_the_same_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    *conda, pip = environment["dependencies"]
    assert [name.split("=")[0] for name in conda] == ["python", "pip"]
    assert pip["pip"][0] == "-c constraints.txt"
    (package,) = re.fullmatch(r"-e \.\[(.*)\]", pip["pip"][1]).groups()  # type: ignore[union-attr]
    assert set(package.split(",")) == set(EXTRAS)


def test_every_imported_package_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(r.name) for r in requirements()}
    ours = {"bnicl", "conftest", "benchmarks", "tests", "tools"}
    provided = importlib.metadata.packages_distributions()
    files = [path for folder in ("bnicl", "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        statements = list(ast.walk(ast.parse(path.read_text())))
        named = [name.name for node in statements if isinstance(node, ast.Import) for name in node.names]
        named += [node.module or "" for node in statements if isinstance(node, ast.ImportFrom)]
        for module in {name.split(".")[0] for name in named}:
            if module in sys.stdlib_module_names or module in ours:
                continue
            assert declared & {canonicalize_name(name) for name in provided[module]}, f"{path.name} imports {module}"


def test_import_bnicl_is_light() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); import bnicl; "
        "print(time.perf_counter() - begin, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    seconds, *modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"pgmpy", "pandas", "seaborn", "matplotlib", "scipy", "sklearn", "papermill", "networkx", "nbformat"}
    assert not heavy & set(modules)
    assert float(seconds) < 10  # the target of 3 s is a row of the benchmark: a busy machine may take longer


def test_the_page_shows_the_benchmarks_that_were_measured() -> None:
    shown = (ROOT / "book" / "benchmarks.md").read_text().split(START)[1].split(END)[0].strip()
    assert shown == as_markdown(pd.read_csv(ROOT / "results" / "benchmarks.csv"))
    shown = (ROOT / "book" / "benchmarks.md").read_text().split(editions.START)[1].split(editions.END)[0].strip()
    assert shown == as_markdown(pd.read_csv(ROOT / "results" / "editions.csv"))
    made = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    assert {"commit", "code", "versions", "hardware", "finished"} <= set(made)


def test_the_page_of_targets_names_commits_of_this_history_by_their_days() -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    if git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone has no history")
    page = (ROOT / "book" / "targets.md").read_text()
    named = re.findall(r"\b([0-9a-f]{7}), (\d+ \w{3})", page)
    assert len(named) > 10
    assert {
        (commit, day)
        for commit, day in named
        if git("log", "-1", "--format=%ad", "--date=format:%-d %b", commit) != day
    } == set()
    assert {git("cat-file", "-t", commit) for commit in re.findall(r"\b[0-9a-f]{7}\b", page)} == {"commit"}


def test_the_figure_of_the_readme_is_the_chapters() -> None:
    chapters = (nbformat.read(path, as_version=4) for path in CHAPTERS)
    images = [image for chapter in chapters if (image := figure(chapter, README_FIGURE))]
    assert images == [README_IMAGE.read_text()]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_can_be_read_and_what_it_calls_exists(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        assert all(name in yaml.safe_load(path.read_text())["jobs"] for name in [job.get("needs", "")] if name)
        for step in job["steps"]:
            assert len({"run", "uses"} & set(step)) == 1
            for line in step.get("run", "").splitlines():
                called = re.findall(r"(?:bash|python3) ([\w./]+)", line)
                assert all((ROOT / name).is_file() for name in called if "/" in name)
                if line.startswith("make "):
                    assert {word for word in line.split()[1:] if "=" not in word} <= targets


def test_the_first_cell_for_colab_leaves_a_notebook_valid(tmp_path: Path) -> None:
    notebook = with_cell(json.loads((ROOT / "book" / "generation.ipynb").read_text()), "https://example.org/bnicl")
    nbformat.validate(nbformat.from_dict(notebook))
    assert "git clone -q --depth 1 https://example.org/bnicl bnicl-book\n" in "".join(notebook["cells"][0]["source"])


# --- chapters -------------------------------------------------------------------------------------

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_every_chapter_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    assert {f"book/{path.stem}" for path in CHAPTERS} <= listed
    for name in listed | {toc["root"]}:
        assert (ROOT / f"{name}.ipynb").exists() or (ROOT / f"{name}.md").exists()


@every_chapter
def test_outputs_are_those_of_one_whole_run(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert not [o for cell in cells for o in cell["outputs"] if o.get("name") == "stderr"]


@every_chapter
def test_several_outputs_are_compared_in_every_profile(path: Path) -> None:
    assert sum("nbval-check-output" in tags(cell) for cell in code_cells(path)) >= 3


@every_chapter
def test_the_skeleton_is_complete(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for part in ("**Question.**", "**Answer.**", "**You need**", "**Time**"):
        assert part in "".join(cells[0]["source"]), part
    for part in ("## Check", "## Summary", "## Exercises"):
        assert part in text, part
    (figure,) = [cell["metadata"]["mystnb"]["figure"]["name"] for cell in cells if "opening" in tags(cell)]
    assert "{numref}`" + figure in "".join(cells[0]["source"])
    assert 2 <= text.count("```{exercise}") <= 3
    assert text.count("```{exercise}") == text.count("{solution-start}") == text.count("{solution-end}")
    assert f"bnicl run {path.stem}" in text
    assert "bnicl.provenance()" in "".join(code_cells(path)[-1]["source"])


@every_chapter
def test_parameters_are_typed_commented_and_have_valid_defaults(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    declared = parameters.parameters_of(path.stem)
    assert len(declared) == len(ast.parse("".join(cell["source"])).body)
    for parameter in declared.values():
        assert parameter.type_name in parameters.TYPES
        assert parameter.comment
    for profile in parameters.PROFILES:
        monkeypatch.setenv("BNICL_PROFILE", profile)
        assert set(parameters.check_parameters(path.stem, {})) == set(declared)


@every_chapter
def test_every_figure_has_a_name_a_caption_and_an_alternative_text(path: Path) -> None:
    text = path.read_text()
    for cell in code_cells(path):
        if any("image/svg+xml" in output.get("data", {}) for output in cell["outputs"]):
            shown = cell["metadata"]["mystnb"]
            assert len(shown["image"]["alt"]) > 40
            assert shown["figure"]["caption"].endswith(".")
            assert "{numref}`" + shown["figure"]["name"] in text or len(shown["figure"]["caption"]) > 60


@every_chapter
def test_reading_steps_are_short(path: Path) -> None:
    """Code that is shown takes few lines; what is longer is a figure (hidden) or belongs in the package."""
    for cell in code_cells(path):
        if not {"hide-input", "remove-cell", "parameters"} & set(tags(cell)):
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
            assert len(lines) <= 16, "".join(cell["source"])


@every_chapter
def test_no_two_chapters_glue_the_same_name(path: Path) -> None:
    names = re.findall(r'glue\(f?"([\w-]+)', "".join("".join(cell["source"]) for cell in code_cells(path)))
    others = "".join(other.read_text() for other in CHAPTERS if other != path)
    assert not [name for name in names if f'glue(\\"{name}' in others]


def test_what_the_readme_claims_of_training_holds_in_the_table() -> None:
    assert "within a thousandth of a bit of the exact optimum" in (ROOT / "README.md").read_text().replace("\n", " ")
    swept = bnicl.load_results("single-structure")
    own = swept[(swept["predictor"] == "transformer") & (swept["node"] == "average") & (swept["n_context"] >= 2)]
    assert own.groupby(["graph", "seed"]).ngroups == 30
    assert own["regret_bits"].max() < 1e-3


def test_the_archives_record_agrees_with_the_citation() -> None:
    citation, archived = (
        yaml.safe_load((ROOT / "CITATION.cff").read_text()),
        json.loads((ROOT / ".zenodo.json").read_text()),
    )
    assert archived["title"] == citation["title"]
    assert archived["version"] == citation["version"] == PROJECT["version"]
    assert archived["license"] == citation["license"].lower()
    assert [one["name"] for one in archived["creators"]] == [one["name"] for one in citation["authors"]]
    paper = citation["preferred-citation"]["identifiers"][0]["value"]
    assert [one["identifier"] for one in archived["related_identifiers"]] == [paper]
