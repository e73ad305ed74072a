"""A reader's own files: what is read is what was written, and what does not fit is refused with its line."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import bnicl
from bnicl.__main__ import main
from bnicl.edges import read_edges
from bnicl.estimators.families import Counts
from bnicl.evaluation.generation import generate_from
from bnicl.files import count_rows, read_rows, write_rows
from bnicl.networks.sources import example_models

NET = bnicl.BayesianNetwork(
    ("a", "b", "c"), ((), (0,), (0, 1)), (2, 3, 2), states=(("no", "yes"), (1, 2, 3), ("x", "y"))
)


def written(tmp_path: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def grid(net: bnicl.BayesianNetwork, node: int) -> torch.Tensor:
    """A query for each joint state of the node's parents, in the order of its table's rows."""
    states = torch.cartesian_prod(*(torch.arange(card) for card in (*net.evidence_card(node), 1)))
    queries = torch.full((len(states.reshape(-1, len(net.parents[node]) + 1)), net.n_nodes), -1)
    queries[:, list(net.parents[node])] = states.reshape(len(queries), -1)[:, :-1]
    return queries


# --- reading and writing --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asia", "child", "insurance"])
def test_rows_come_back_from_a_file_and_their_counts_are_those_of_the_rows(name: str, tmp_path: Path) -> None:
    net = bnicl.load_network(name)
    rows = bnicl.forward_sample(net, 500, seed=1)
    write_rows(tmp_path / "rows.csv", net, rows)
    assert torch.equal(read_rows(tmp_path / "rows.csv", net), rows)
    counts = count_rows(tmp_path / "rows.csv", net)
    assert counts.n == 500
    for m in range(net.n_nodes):
        by_query = bnicl.count(rows[None], m, net.parents[m], net.cardinalities)[0].reshape(-1, net.cardinalities[m])
        assert counts.given(grid(net, m), m).tolist() == by_query.tolist()


def test_columns_may_stand_in_any_order_and_states_may_be_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffc, a,b\nx, yes,3\ny,no,1\n")
    assert read_rows(path, NET).tolist() == [[1, 2, 0], [0, 0, 1]]


def test_the_name_of_a_state_may_look_like_a_missing_value(tmp_path: Path) -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 2), states=(("NA", "None"), ("0", "1")))
    assert read_rows(written(tmp_path, "a,b\nNA,0\nNone,1\n"), net).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="expected a value in every field, got none for b in line 3"):
        read_rows(written(tmp_path, "a,b\nNA,0\nNone,NA\n"), net)


def test_counting_in_blocks_is_counting_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bnicl.forward_sample(NET.with_random_cpts(seed=0), 1000, seed=0)
    write_rows(tmp_path / "rows.csv", NET, rows)
    monkeypatch.setattr("bnicl.files._BLOCK", 7)
    counts = count_rows(tmp_path / "rows.csv", NET)
    for ours, whole in zip(counts.families, Counts.of([rows], NET).families, strict=True):
        assert torch.equal(ours.evidence, whole.evidence)
        assert torch.equal(ours.counts, whole.counts)
    query = rows[:50]
    by_hand = [int((rows[:, :2] == q[:2]).all(1).sum()) for q in query]
    assert counts.matching(query, 2).tolist() == by_hand


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    write_rows(path, NET, torch.tensor([[0, 0, 0]]))
    with pytest.raises(FileExistsError, match=r"out: expected a new file, got .*new.csv, which exists; --force"):
        write_rows(path, NET, torch.tensor([[1, 1, 1]]))
    with pytest.raises(ValueError, match="codes need to be between"):
        write_rows(path, NET, torch.tensor([[7, 1, 1]]), force=True)
    assert path.read_text() == "a,b,c\nno,1,x\n"
    write_rows(path, NET, torch.tensor([[1, 1, 1]]), force=True)
    assert path.read_text() == "a,b,c\nyes,2,y\n"
    assert [p.name for p in tmp_path.iterdir()] == ["new.csv"]


def test_the_constructed_transformer_reads_counts_as_it_reads_rows() -> None:
    net = bnicl.load_network("child")
    rows, query = bnicl.forward_sample(net, 300, seed=2), bnicl.forward_sample(net, 20, seed=3)
    exact = bnicl.MaximumLikelihood(net, "nearest")
    for variant in ("paper", "causal", "heads", "prompt"):
        transformer = bnicl.construct_mle_transformer(net, variant=variant, max_context=300)
        predict = transformer.counted(Counts.of([rows], net))
        for m in range(net.n_nodes):
            whole = transformer.last_column(transformer.columns(rows.expand(20, -1, -1), query, m))  # row by row
            p = predict(query, m)
            torch.testing.assert_close(p, transformer.read(whole, m), atol=1e-9, rtol=0)
            torch.testing.assert_close(p, exact.predict_proba(rows.expand(20, -1, -1), query, m), atol=1e-6, rtol=0)
        assert torch.equal(generate_from(predict, net.n_nodes, 50), bnicl.generate(transformer, rows, 50))
    with pytest.raises(ValueError, match="context: expected at most max_context = 10 rows, got 300"):
        bnicl.construct_mle_transformer(net, max_context=10, variant="causal").counted(Counts.of([rows], net))


# --- what does not fit ----------------------------------------------------------------------------

WIDE = ",".join(f"X{i}" for i in range(10_000))
BAD: list[tuple[str, str | bytes, str]] = [
    ("missing", "a,b\nno,1\n", "expected a column for every node, got none for c"),
    ("extra", "a,b,c,d\nno,1,x,0\n", "expected columns for the 3 nodes alone, got also d"),
    ("doubled", "a,b,c,b\nno,1,x,1\n", "expected each column once, got twice b"),
    ("unknown state", "a,b,c\nno,1,x\nno,4,x\nno,4,y\n", "expected one of 1, 2, 3 for b, got '4' in line 3, 4"),
    ("header only", "a,b,c\n", "expected at least one row below the header, got none"),
    ("empty", "", "expected a header with the names of the nodes, got none"),
    ("NaN", "a,b,c\nno,1,x\nno,NaN,x\n", "expected a value in every field, got none for b in line 3"),
    ("a gap", "a,b,c\nno,1,\nno,2,x\nno,1,\n", "expected a value in every field, got none for c in line 2, 4"),
    ("a short line", "a,b,c\nno,1,x\nno,1\n", "expected a value in every field, got none for c in line 3"),
    ("a long line", "a,b,c\nno,1,x\nno,1,x,y\n", "expected a field for each column, got another number .*line 3"),
    (
        "long lines alone",
        "a,b,c\nno,1,x,y\nno,1,x,y\n",
        "expected a field for each column, got another number .*line 2",
    ),
    ("a blank line", "a,b,c\nno,1,x\n\nno,1,x\n", "expected a value in every field, got none for a in line 3"),
    ("10,000 columns", f"{WIDE}\n{WIDE}\n", "expected a column for every node, got none for a, b, c"),
    ("10,000 columns more", f"a,b,c,{WIDE}\n", "got also X0, X1, X2, X3, X4 and 9,995 more$"),
    ("not text", bytes(random.Random(0).randbytes(3000)), "expected text in UTF-8, got other bytes"),
    ("an image", b"\x89PNG\r\n\x1a\n\x00\x00", "expected text in UTF-8, got other bytes"),
    ("zero bytes", b"a,b,c\x00\nno,1,x\n", "expected (text in UTF-8|a header|a column)"),
    ("not text below", b"a,b,c\nno,1,x\nno,\xff,x\n", "expected text in UTF-8, got other bytes"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
@pytest.mark.parametrize("read", [read_rows, count_rows])
def test_a_file_that_does_not_fit_is_refused(read: Any, text: str | bytes, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read(path, NET)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows: expected a file, got"):
        read_rows(tmp_path / "none.csv", NET)
    with pytest.raises(ValueError, match="rows: expected a file, got"):
        read_rows(tmp_path, NET)


# --- edge lists -----------------------------------------------------------------------------------


def test_an_edge_list_takes_its_states_from_the_rows(tmp_path: Path) -> None:
    edges = written(tmp_path, "a,b\n\n b , c\nd\n", "graph.txt")
    rows = written(tmp_path, "d,c,b,a\n10,x,no,1\n9,y,yes,2\n10,y,no,10\n")
    net = read_edges(edges, rows)
    assert net.names == ("a", "b", "c", "d")
    assert net.parents == ((), (0,), (1,), ())
    assert net.states == (("1", "2", "10"), ("no", "yes"), ("x", "y"), ("9", "10"))
    assert read_rows(rows, net).tolist() == [[0, 0, 0, 1], [1, 1, 1, 0], [2, 0, 1, 1]]


@pytest.mark.parametrize(
    ("edges", "rows", "message"),
    [
        ("a,b\nb,a\n", "a,b\n0,1\n1,0\n", "edges: expected a graph without cycles, got the cycle a -> b -> a"),
        ("a,b\na,b\n", "a,b\n0,1\n1,0\n", "line 2: expected each edge once, got 'a,b' again"),
        ("a,b,c\n", "a,b,c\n0,1,0\n", "line 1: expected parent,child or a node's name, got 'a,b,c'"),
        ("a,\n", "a\n0\n1\n", "line 1: expected parent,child"),
        ("a,a\n", "a\n0\n1\n", "line 1: expected parent,child"),
        ("\n", "a\n0\n1\n", "expected a line parent,child for each edge, got none"),
        ("a,b\n", "a,b,z\n0,1,0\n1,0,1\n", "expected columns for the 2 nodes alone, got also z"),
        ("a,b\n", "a\n0\n1\n", "expected a column for every node, got none for b"),
        ("a,b\n", "a,b\n0,1\n0,0\n", "expected two states of a or more, got '0' in every row"),
        ("a\n", "a\n" + "\n".join(map(str, range(1500))) + "\n", "expected at most 1,000 states of a, got more"),
    ],
)
def test_an_edge_list_that_does_not_fit_is_refused(edges: str, rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_edges(written(tmp_path, edges, "graph.txt"), written(tmp_path, rows))


def test_bytes_are_no_edge_list(tmp_path: Path) -> None:
    rows = written(tmp_path, "a,b\n0,1\n")
    with pytest.raises(ValueError, match="expected text in UTF-8"):
        read_edges(written(tmp_path, b"a,\xff\n", "graph.txt"), rows)
    with pytest.raises(ValueError, match="network: expected a file"):
        read_edges(tmp_path / "none", rows)


# --- the command line -----------------------------------------------------------------------------


def files_of(name: str, tmp_path: Path, n: int) -> tuple[Path, Path, bnicl.BayesianNetwork]:
    bif, rows = tmp_path / f"{name}.bif", tmp_path / "rows.csv"
    bif.write_bytes(gzip.decompress((example_models() / f"{name}.bif.gz").read_bytes()))
    net = bnicl.load_network(bif)
    write_rows(rows, net, bnicl.forward_sample(net, n, seed=0))
    return bif, rows, net


def aligned(fitted: bnicl.BayesianNetwork, net: bnicl.BayesianNetwork, node: int) -> torch.Tensor:
    """The table of a network with the same nodes, its axes and states in the order of `net`."""
    assert fitted.cpts is not None
    m = fitted.names.index(net.names[node])
    table, axes = fitted.cpts[m], [*(fitted.names[p] for p in fitted.parents[m]), fitted.names[m]]
    for axis, name in enumerate(axes):
        theirs, ours = (n.states[n.names.index(name)] for n in (fitted, net))
        table = table.index_select(axis, torch.tensor([theirs.index(state) for state in ours]))
    return table.permute([axes.index(net.names[i]) for i in (*net.parents[node], node)])


@pytest.mark.parametrize("name", ["asia", "child", "insurance"])
def test_a_round_trip_ends_in_the_tables_that_pgmpy_fits(name: str, tmp_path: Path) -> None:
    """BIF and CSV in, rows out; pgmpy, fitted to the new rows, finds the relative frequencies of the old ones."""
    from pgmpy.models import DiscreteBayesianNetwork
    from pgmpy.parameter_estimator import DiscreteMLE

    bif, rows, net = files_of(name, tmp_path, 5000)
    out = tmp_path / "new.csv"
    assert main(["generate", "--network", str(bif), "--context", str(rows), "--out", str(out), "-n", "20000"]) == 0
    model = DiscreteBayesianNetwork([(net.names[i], net.names[j]) for i, j in net.edges])
    model.add_nodes_from(net.names)
    states = {name: list(own) for name, own in zip(net.names, net.states, strict=True)}
    model.add_cpds(
        *DiscreteMLE(state_names=states).fit(model, pd.read_csv(out, dtype=str, na_filter=False)).parameters_
    )
    fitted, before = bnicl.BayesianNetwork.from_pgmpy(model), count_rows(rows, net)
    for m in range(net.n_nodes):
        shape = (*net.evidence_card(m), net.cardinalities[m])
        counts = before.given(grid(net, m), m).reshape(shape)
        often = counts.sum(-1) > 0.05 * before.n
        wanted = counts / counts.sum(-1, keepdim=True)
        apart = bnicl.total_variation(wanted, aligned(fitted, net, m))
        assert apart[often].max() < 0.05
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["rows in the context"] == 5000
    assert set(manifest["sha256"]) == {str(bif), str(rows), str(out)}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_prediction_with_its_number_of_matching_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bif, rows, _ = files_of("asia", tmp_path, 2000)
    given = ["--given", "bronc=yes", "either=no", "asia=no"]
    assert main(["predict", "--network", str(bif), "--context", str(rows), "--target", "dysp", *given]) == 0
    shown = capsys.readouterr().out.split()
    table = pd.read_csv(rows, dtype=str)
    matching = table[(table["bronc"] == "yes") & (table["either"] == "no")]
    assert float(shown[0]) == pytest.approx((matching["dysp"] == "yes").mean(), abs=1e-4)
    assert f"{len(matching):,} of 2,000 rows have these parents" in " ".join(shown)


@pytest.mark.parametrize("network", ["asia", "asia.txt"])
def test_a_trained_transformer_generates_too(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, rows, _ = files_of("asia", tmp_path, 2000)
    net = bnicl.load_network("asia")
    written(tmp_path, "".join(f"{net.names[i]},{net.names[j]}\n" for i, j in net.edges), "asia.txt")
    out = tmp_path / "new.csv"
    call = ["generate", "--network", network, "--context", str(rows), "--out", str(out), "-n", "10", "--train", "0.5"]
    assert main(call) == 0
    assert len(pd.read_csv(out)) == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            ["generate", "--out", "rows.csv"],
            "out: expected another file than what is read, got rows.csv",
        ),
        (["generate", "--out", "new.txt"], "out: expected a file that ends in .csv, got 'new.txt'"),
        (["generate", "--out", "new.csv", "--context", "none.csv"], "rows: expected a file, got 'none.csv'"),
        (
            ["generate", "--out", "new.csv", "--network", "broken.bif"],
            "broken.bif, line 1: expected network, variable or probability, got 'rows'",
        ),
        (["generate", "--out", "new.csv", "--network", "cycle.txt"], "got the cycle asia -> tub -> asia"),
        (["generate", "--out", "new.csv", "--network", "cycle.txt", "--train", "1"], "cycle"),
        (["predict", "--target", "x"], "--target: expected one of asia, "),
        (["generate", "--out", "old.csv"], "out: expected a new file, got old.csv, which exists; --force replaces it"),
        (["generate", "--out", "none/new.csv"], "out: expected a folder that is there, got 'none'"),
        (
            ["predict", "--target", "dysp", "--given", "bronc=maybe"],
            "--given: expected one of yes, no for bronc, got 'maybe'",
        ),
        (["predict", "--target", "dysp", "--given", "bronchitis=yes"], "--given: expected NODE=STATE"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line_and_writes_nothing(
    call: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files_of("asia", tmp_path, 50)
    written(tmp_path, "rows and columns", "broken.bif")
    written(tmp_path, "old", "old.csv")
    written(tmp_path, "asia,tub\ntub,asia\n", "cycle.txt")
    before = sorted(path.name for path in tmp_path.iterdir())
    full = [call[0], *(["--network", "asia.bif"] if "--network" not in call else [])]
    full += [*(["--context", "rows.csv"] if "--context" not in call else []), *call[1:]]
    assert main(full) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_million_rows_take_one_pass_and_less_than_a_gibibyte(tmp_path: Path) -> None:
    """In a process of its own, whose largest size is asked for at the end."""
    net = bnicl.load_network("asia")
    block = tmp_path / "block.csv"
    write_rows(block, net, bnicl.forward_sample(net, 100_000, seed=0))
    header, *lines = block.read_text().splitlines(keepends=True)
    with (tmp_path / "rows.csv").open("w") as file:
        file.writelines([header, *(line for _ in range(10) for line in lines)])
    code = (
        "import re, sys; from bnicl.__main__ import main; code = main(sys.argv[1:]); "
        "print(re.search('VmHWM: *\t*(.*) kB', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    call = [
        "generate",
        "--network",
        "asia",
        "--context",
        str(tmp_path / "rows.csv"),
        "--out",
        str(tmp_path / "new.csv"),
    ]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, check=True)
    assert "from 1,000,000" in done.stdout
    assert int(done.stdout.split()[-1]) < 2**20  # KiB
