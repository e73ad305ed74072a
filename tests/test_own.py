"""`posterior` and `bnicl predict`: any evidence, many queries, gaps, and calls that are wrong."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch

import bnicl
from bnicl.__main__ import main
from bnicl.estimators.families import Counts
from bnicl.estimators.inference import FittedNetwork
from bnicl.files import write_rows
from bnicl.networks.checks import ABSENT


@pytest.fixture
def asia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bnicl.BayesianNetwork:
    """A folder with 5,000 rows of asia."""
    monkeypatch.chdir(tmp_path)
    net = bnicl.load_network("asia")
    write_rows("rows.csv", net, bnicl.forward_sample(net, 5000, seed=0))
    return net


ASK = ["predict", "--network", "asia", "--context", "rows.csv", "--target"]


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, float], str]:
    """The probabilities by state, and the last line."""
    *lines, last = capsys.readouterr().out.splitlines()
    return {line.split()[-1].partition("=")[2]: float(line.split()[0]) for line in lines}, last


def frequency(given: dict[str, str], **then: str) -> float:
    table = pd.read_csv("rows.csv", dtype=str)
    chosen = table[(table[list(given)] == pd.Series(given)).all(axis=1)] if given else table
    ((name, state),) = then.items()
    return float((chosen[name] == state).mean())


@pytest.mark.usefixtures("asia")
def test_an_effect_changes_the_probability_of_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "lung", "--given", "smoke=yes"]) == 0
    alone, last = shown(capsys)
    assert alone["yes"] == pytest.approx(frequency({"smoke": "yes"}, lung="yes"), abs=1e-4)
    assert re.fullmatch(r"constructed transformer: [\d,]+ of 5,000 rows have these parents", last)
    assert main([*ASK, "lung", "--given", "smoke=yes", "xray=yes"]) == 0
    both, last = shown(capsys)
    assert both["yes"] == pytest.approx(frequency({"smoke": "yes", "xray": "yes"}, lung="yes"), abs=0.06)
    assert both["yes"] > 0.5 > 0.15 > alone["yes"]
    assert last == "exact inference in the network fitted to 5,000 rows"


@pytest.mark.usefixtures("asia")
def test_an_effect_alone_and_nothing_at_all_are_evidence_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "lung", "--given", "xray=yes"]) == 0
    assert shown(capsys)[0]["yes"] == pytest.approx(frequency({"xray": "yes"}, lung="yes"), abs=0.06)
    assert main([*ASK, "lung"]) == 0
    assert shown(capsys)[0]["yes"] == pytest.approx(frequency({}, lung="yes"), abs=2e-4)
    assert main([*ASK, "smoke"]) == 0  # a root: its own table
    assert shown(capsys)[1] == "constructed transformer: 5,000 of 5,000 rows have these parents"


@pytest.mark.usefixtures("asia")
def test_the_posterior_mean_comes_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["smoke=yes"], ["smoke=yes", "xray=yes"]):
        assert main([*ASK, "lung", "--given", *given, "--estimator", "posterior-mean", "--alpha", "1"]) == 0
        first, _, last = capsys.readouterr().out.splitlines()
        p, low, high = map(float, re.findall(r"\d\.\d+", first))
        assert low < p < high < low + 0.2
        assert ("alpha = 1" in last) == (len(given) == 1)


@pytest.mark.usefixtures("asia")
def test_impossible_evidence_is_refused_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    call = [*ASK, "xray", "--given", "tub=yes", "either=no"]
    assert main(call) == 2
    message = capsys.readouterr().err
    assert "got tub=yes, either=no: its probability is 0 in the network fitted to these rows" in message
    assert "posterior-mean" in message
    assert main([*call, "--estimator", "posterior-mean"]) == 0


def test_python_says_what_the_command_says(asia: bnicl.BayesianNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"smoke": "yes", "xray": "yes"}
    answer = bnicl.posterior("asia", "rows.csv", "lung", given)
    assert main([*ASK, "lung", "--given", "smoke=yes", "xray=yes"]) == 0
    assert capsys.readouterr().out == f"{answer}\n"
    rows = bnicl.forward_sample(asia, 5000, seed=0)
    assert bnicl.posterior(asia, rows, "lung", given).probabilities == answer.probabilities
    mean = bnicl.posterior(asia, rows, "lung", given, estimator="posterior-mean")
    assert mean.low is not None
    assert mean.low["yes"] < mean.probabilities["yes"]
    sampled = bnicl.posterior(asia, rows, "lung", given, samples=20_000)
    assert sampled.error is not None
    assert abs(sampled.probabilities["yes"] - answer.probabilities["yes"]) < 5 * sampled.error["yes"]


def test_states_may_be_numbers_and_truth_values() -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 2), states=((0, 1), (False, True)))
    rows = torch.tensor([[0, 0], [1, 1], [1, 0]])
    assert bnicl.posterior(net, rows, "a", {"b": False}).probabilities == {"0": 0.5, "1": 0.5}
    assert bnicl.posterior(net, rows, "b", {"a": 1.0}).probabilities == pytest.approx({"False": 0.5, "True": 0.5})


# --- many queries ---------------------------------------------------------------------------------


def queries_of(net: bnicl.BayesianNetwork, n: int, without: str, seed: int) -> pd.DataFrame:
    rows = bnicl.forward_sample(net, n, seed=seed)
    named = {name: [net.states[m][k] for k in rows[:, m].tolist()] for m, name in enumerate(net.names)}
    return pd.DataFrame(named).drop(columns=without)


def test_a_file_of_queries_is_answered_line_by_line(
    asia: bnicl.BayesianNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = queries_of(asia, 60, "lung", 1)
    queries.loc[::2, "xray"] = ""
    queries.loc[::3, ["dysp", "either"]] = ""
    queries[["xray", "smoke", "dysp", "either"]].to_csv("q.csv", index=False)
    assert main([*ASK, "lung", "--queries", "q.csv", "--out", "a.csv", "--estimator", "posterior-mean"]) == 0
    assert "finished: 60 queries in a.csv" in capsys.readouterr().out
    answers = pd.read_csv("a.csv", dtype=str, na_filter=False)
    assert list(answers)[:4] == ["xray", "smoke", "dysp", "either"]
    for i in (0, 1, 2, 3, 33, 59):
        given = {name: queries.loc[i, name] for name in ("xray", "smoke", "dysp", "either") if queries.loc[i, name]}
        alone = bnicl.posterior("asia", "rows.csv", "lung", given, estimator="posterior-mean")
        assert float(answers.loc[i, "P(lung=yes)"]) == pytest.approx(alone.probabilities["yes"], rel=1e-4)
        assert float(answers.loc[i, "P(lung=yes) low"]) < float(answers.loc[i, "P(lung=yes) high"])


def test_queries_that_parents_decide_are_the_transformers(asia: bnicl.BayesianNetwork) -> None:
    queries_of(asia, 500, "dysp", 2).to_csv("q.csv", index=False)
    call = ["predict", "--network", "asia", "--context", "rows.csv", "--target", "dysp"]
    assert main([*call, "--queries", "q.csv", "--out", "a.csv"]) == 0
    answers = pd.read_csv("a.csv")
    assert answers["direct"].all()
    first = answers.loc[0]
    same = pd.read_csv("rows.csv", dtype=str)
    same = same[(same["bronc"] == first["bronc"]) & (same["either"] == first["either"])]
    assert first["rows"] == len(same)
    assert first["P(dysp=yes)"] == pytest.approx((same["dysp"] == "yes").mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smoke,xray\nyes,yes\nyes,maybe\n", "expected one of yes, no for xray, got 'maybe' in line 3"),
        ("smoke,wind\nyes,yes\n", "expected columns for the 8 nodes alone, got also wind"),
        ("smoke,lung\nyes,yes\n", "q.csv: expected no values of the target lung, got some"),
        ("tub,either\nno,no\nyes,yes\nyes,no\n", "q.csv, line 4: evidence: expected some that is possible"),
        ("smoke,xray\nyes\n", "q.csv: expected 2 fields, got 1 in line 2"),
        ("smoke\n", "expected at least one row below the header, got none"),
    ],
)
@pytest.mark.usefixtures("asia")
def test_a_wrong_file_of_queries_leaves_nothing(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("q.csv").write_text(text)
    assert main([*ASK, "lung", "--queries", "q.csv", "--out", "a.csv"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert sorted(path.name for path in Path().iterdir()) == ["q.csv", "rows.csv"]


def chain(names: tuple[str, ...], n: int = 300) -> tuple[bnicl.BayesianNetwork, torch.Tensor]:
    net = bnicl.BayesianNetwork(names, tuple((i - 1,) if i else () for i in range(len(names))), (2,) * len(names))
    return net, torch.randint(2, (n, len(names)), generator=bnicl.make_generator(0))


def files_of(net: bnicl.BayesianNetwork, rows: torch.Tensor) -> list[str]:
    bnicl.write_bif("net.bif", net)
    write_rows("rows.csv", net, rows, force=True)
    return [
        "predict",
        "--network",
        "net.bif",
        "--context",
        "rows.csv",
        "--queries",
        "q.csv",
        "--out",
        "a.csv",
        "--target",
    ]


@pytest.mark.parametrize("more", [[], ["--samples", "50"], ["--estimator", "posterior-mean"]])
def test_all_blocks_of_answers_have_the_same_columns(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnicl.own._AT_ONCE", 4)
    monkeypatch.setattr("bnicl.estimators.inference.DRAWS", 20)
    net, rows = chain(("a", "b", "c"))
    call = files_of(net, rows)
    Path("q.csv").write_text("a,c\n" + "0,\n" * 4 + ",0\n" * 3 + "1,1\n")
    assert main([*call, "b", *more]) == 0
    with Path("a.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert {len(line) for line in lines} == {len(header)}
    assert [line[:2] for line in lines] == [["0", ""]] * 4 + [["", "0"]] * 3 + [["1", "1"]]
    assert ("P(b=0) standard error" in header) == (more == ["--samples", "50"])


def test_a_node_may_have_the_name_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, rows = chain(("rows", "P(t=0)", "t"))
    Path("q.csv").write_text("rows,P(t=0)\n0,1\n1,0\n")
    assert main([*files_of(net, rows), "t"]) == 0
    answers = pd.read_csv("a.csv")
    assert list(answers)[:4] == ["rows", "P(t=0)", "answer P(t=0)", "P(t=1)"]
    assert answers["rows"].tolist() == [0, 1]
    assert answers["P(t=0)"].tolist() == [1, 0]
    assert (answers["answer rows"] > 2).all()


def test_a_query_that_knows_nothing_is_answered_and_an_empty_line_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net, rows = chain(("a", "b", "c"))
    call = files_of(net, rows)
    Path("q.csv").write_text("a,c\n0,1\n,\n\n")
    assert main([*call, "b"]) == 0
    assert len(pd.read_csv("a.csv")) == 2
    Path("q.csv").write_text("a,c\n0,1\n\n0,1\n")
    assert main([*call, "b", "--force"]) == 2
    assert "q.csv: expected a row in line 3, got an empty line" in capsys.readouterr().err


# --- gaps -----------------------------------------------------------------------------------------


def test_missing_available_counts_what_is_there_and_em_what_is_to_be_expected(tmp_path: Path) -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 2), states=(("no", "yes"),) * 2)
    path = tmp_path / "rows.csv"
    path.write_text("a,b\nno,no\nno,NA\n,yes\nyes,yes\nyes,?\nyes,no\n")
    available = bnicl.fit(net, path, missing="available")
    assert available.counts.families[0].counts.tolist() == [[2, 3]]
    assert available.counts.families[1].counts.tolist() == [[1, 0], [1, 1]]
    expected = bnicl.expected_counts(
        torch.tensor([[[0, 0], [0, -1], [-1, 1], [1, 1], [1, -1], [1, 0]]]), net, alpha=0.0
    )
    em = bnicl.fit(net, path, missing="em")
    assert torch.allclose(em.counts.families[1].counts, expected[1][0], atol=1e-8)
    assert em.counts.n == 6
    with pytest.raises(ValueError, match=r"got none for a in line 4; --missing available .*--missing em"):
        bnicl.fit(net, path)


@pytest.mark.usefixtures("unchecked_shapes")
def test_another_way_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="missing: expected one of refuse, available, em, got 'drop'"):
        bnicl.fit("chain3", torch.zeros(2, 3, dtype=torch.int64), missing="drop")  # type: ignore[arg-type]


def test_a_network_too_large_for_em_is_refused_before_its_rows_are_read() -> None:
    with pytest.raises(ValueError, match=r"at most 4,096 joint states, got .*; missing available counts each family"):
        bnicl.fit("alarm", "no such file.csv", missing="em")


@pytest.mark.parametrize("given", [{"b": 2}, {"a": 1, "b": 2}])
def test_what_em_has_on_the_way_to_zero_is_zero(given: dict[str, int]) -> None:
    net = bnicl.BayesianNetwork(("a", "b", "c"), ((), (0,), (1,)), (2, 3, 2))
    rows = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 1], [-1, -1, 0]])
    with pytest.raises(ValueError, match=r"evidence: expected .* got .*b=2"):
        bnicl.posterior(net, rows, "c", given, missing="em")


def test_a_cell_is_named_by_its_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('X0,X1,X2\n0,0,0\n"1\n",0,1\n1,0,BAD\n')
    with pytest.raises(ValueError, match="got 'BAD' in line 5"):
        bnicl.fit("chain3", path)


def test_a_row_of_gaps_at_the_end_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("X0,X1,X2\n0,0,0\n,,\n\n")
    assert bnicl.fit("chain3", path, missing="available").counts.n == 2
    with pytest.raises(ValueError, match="expected a value in every field, got none for X0 in line 3"):
        bnicl.fit("chain3", path)


def test_minus_zero_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("X0,X1,X2\n0,-0.0,0.0\n1,1.0,-0\n")
    assert bnicl.fit("chain3", path).counts.n == 2


def test_a_line_that_ends_too_early_is_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("X0,X1,X2\n0,1,\n1,0\n")
    with pytest.raises(ValueError, match="expected 3 fields, got 2 in line 3"):
        bnicl.fit("chain3", path, missing="available")


def test_states_that_differ_in_capitals_alone_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.csv").write_text("a,b\n")
    (tmp_path / "d.csv").write_text("a,b\nTrue,x\nTRUE,y\nFalse,x\n")
    call = ["predict", "--network", str(tmp_path / "g.csv"), "--context", str(tmp_path / "d.csv"), "--target", "a"]
    assert main(call) == 0
    shown = capsys.readouterr()
    assert "bnicl: warning: " in shown.err
    assert "'a' has the states 'TRUE' and 'True', read as two" in shown.err
    assert "a=TRUE" in shown.out


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["--given", "smoke=yes", "smoke=no"], "--given: expected each node once, got smoke twice"),
        (["--given", "lung=yes"], "evidence: expected none on the target lung, got some"),
        (["--queries", "rows.csv"], "--queries: expected together with --out"),
        (["--out", "a.csv"], "--queries: expected together with --out"),
        (["--queries", "rows.csv", "--out", "a.csv", "--given", "smoke=yes"], "expected neither --given nor --train"),
        (["--queries", "q.csv", "--out", "rows.csv", "--force"], "out: expected another file than what is read"),
        (["--queries", "q.csv", "--out", "none/a.csv"], "out: expected a folder that is there, got 'none'"),
        (["--train", "1", "--missing", "em"], "--train: expected no --missing beside it, got em"),
        (["--train", "1", "--given", "smoke=yes", "xray=yes"], "--train: expected evidence without descendants"),
        (["--alpha", "2"], "--alpha: expected --estimator posterior-mean beside it, got mle"),
        (["--train", "1"], "--train: expected a state for every parent of the target, got none for smoke"),
        (["--network", "rows.csv.gz"], "network: expected a name of bnicl.network_names() or a path"),
        (["--network", "aisa"], "got 'aisa'; did you mean 'asia'?"),
    ],
)
@pytest.mark.usefixtures("asia")
def test_a_wrong_call_is_one_line(call: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "lung", *call]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "call",
    [
        ["--train", "0"],
        ["--train", "soon"],
        ["--samples", "0"],
        ["--samples", "1" + "0" * 25],
        ["--alpha", "-1"],
        ["x\ny"],
    ],
)
@pytest.mark.usefixtures("asia")
def test_numbers_that_cannot_be_are_one_line(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*ASK, "lung", *call])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_that_is_like_nothing_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--network", "patients-2024", "--context", "rows.csv", "--target", "x"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(("mark", "said"), [(";", "';'"), ("\t", "a tab")])
@pytest.mark.usefixtures("asia")
def test_another_separator_is_named(mark: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text(Path("rows.csv").read_text().replace(",", mark))
    assert main([*ASK, "lung"]) == 2
    assert f"rows.csv: expected commas between the columns, got {said}" in capsys.readouterr().err


def test_a_wide_chain_is_answered_from_its_family_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"n{i}" for i in range(2000)]
    (tmp_path / "g.csv").write_text("".join(f"{a},{b}\n" for a, b in pairwise(names)))
    rows = torch.randint(2, (100, 2000), generator=bnicl.make_generator(0))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows.tolist()])
    files = ["--network", str(tmp_path / "g.csv"), "--context", str(tmp_path / "d.csv")]
    assert main(["predict", *files, "--target", "n1500", "--given", "n1499=1"]) == 0
    matching = rows[rows[:, 1499] == 1, 1500].double()
    assert f"{matching.mean():8.4f}  n1500=1" in capsys.readouterr().out
    assert main(["predict", *files, "--target", "n700", "--given", "n710=1"]) == 0  # an effect, ten steps away
    fitted = FittedNetwork(Counts.of([rows], bnicl.BayesianNetwork.from_edges(pairwise(names))))
    evidence = torch.full((1, 2000), ABSENT)
    evidence[0, 710] = 1
    assert f"{fitted.posterior(700, evidence).probabilities[0, 1]:8.4f}  n700=1" in capsys.readouterr().out


def test_what_is_no_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    call = ["generate", "--network", "asia", "--context", "rows.csv", "--force", "--out", str(tmp_path / "pipe.csv")]
    assert main(call) == 2
    assert "expected a file, got" in capsys.readouterr().err
    assert not (tmp_path / "pipe.csv").is_file()


@pytest.mark.usefixtures("unchecked_shapes")
def test_python_calls_with_other_types_are_refused(tmp_path: Path) -> None:
    net, rows = chain(("a", "b", "c"))
    none = torch.full((1, 3), ABSENT)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: bnicl.fit(net, rows.numpy()), "rows: expected a tensor or the path of a CSV file, got ndarray"),  # type: ignore[arg-type]
        (lambda: bnicl.fit(net, None), "rows: expected a tensor or the path of a CSV file, got NoneType"),  # type: ignore[arg-type]
        (lambda: bnicl.fit(net, rows[0]), r"rows: expected the rows \[n, nodes\] of one context, got shape \(3,\)"),
        (lambda: bnicl.fit(net, rows[None], missing="em"), "rows: expected the rows .* got shape"),
        (lambda: bnicl.fit(3, rows), "network: expected a BayesianNetwork, a name or a path, got int"),  # type: ignore[arg-type]
        (lambda: bnicl.posterior(net, rows, "a", ["b=1"]), "given: expected states by the names of nodes, got list"),  # type: ignore[arg-type]
        (lambda: bnicl.posterior(net, rows, 0), "target: expected one of a, b, c, got 0"),  # type: ignore[arg-type]
        (
            lambda: bnicl.posterior(net, rows, "a", {"b": 1, "c": 1}, samples=10**9),
            "samples: expected at most 100,000,000",
        ),
        (lambda: bnicl.write_bif(tmp_path / "n.bif", "asia"), "net: expected a BayesianNetwork"),  # type: ignore[arg-type]
        (lambda: bnicl.write_bif(None, net), "path: expected the name of a file, got None"),  # type: ignore[arg-type]
        (lambda: bnicl.fit(net, rows).posterior(0, none[0]), r"evidence: expected shape \[batch, 3\], got \(3,\)"),
        (lambda: bnicl.fit(net, rows).posterior(0, none[:0]), r"evidence: expected shape \[batch, 3\], got \(0, 3\)"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from bnicl.__main__ import _parser; _parser(); print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not {"torch", "numpy", "pandas", "pydantic", "networkx"} & loaded


def test_waiting_threads_leave_the_processor_to_others() -> None:
    code = "import os; os.environ.pop('OMP_WAIT_POLICY', None); import bnicl; print(os.environ['OMP_WAIT_POLICY'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "PASSIVE"
