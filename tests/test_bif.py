"""The reader of BIF files, beside pgmpy's, pyAgrum's, and cases by hand."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

import bnicl
from bnicl.networks.bif import read_bif
from bnicl.networks.graph import import_pgmpy
from bnicl.networks.sources import GRAPHS, example_models, is_network_file
from tests.agrum import ask

CASES = Path(__file__).parent / "cases"
SHIPPED = sorted(set(bnicl.network_names()) - set(GRAPHS))
LARGE = ("barley", "diabetes", "mildew", "munin", "munin2", "munin3", "munin4", "pathfinder")  # pgmpy takes minutes


def shipped(name: str) -> str:
    return gzip.decompress((example_models() / f"{name}.bif.gz").read_bytes()).decode()


def by_pgmpy(text: str) -> bnicl.BayesianNetwork:
    return bnicl.BayesianNetwork.from_pgmpy(import_pgmpy().readwrite.BIFReader(string=text + "\n").get_model())


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(LARGE)))
def test_a_shipped_network_is_read_as_pgmpy_reads_it(name: str) -> None:
    ours, peer = read_bif(shipped(name), name), by_pgmpy(shipped(name))
    assert (ours.names, ours.parents, ours.cardinalities, ours.states) == (
        peer.names, peer.parents, peer.cardinalities, peer.states,
    )  # fmt: skip
    assert all(torch.allclose(a, b, atol=1e-12, rtol=0) for a, b in zip(ours.tables, peer.tables, strict=True))


@pytest.mark.parametrize("name", LARGE)
def test_a_large_shipped_network_is_read_as_pyagrum_reads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.bif").write_text(shipped(name))
    (peer,) = ask("read", [str(tmp_path / "net.bif")])
    assert_read_alike(read_bif(shipped(name), name), peer, atol=1e-7)


def assert_read_alike(ours: bnicl.BayesianNetwork, peer: dict[str, Any], atol: float, tables: bool = True) -> None:
    assert set(peer) == set(ours.names)
    for m, name in enumerate(ours.names):
        assert peer[name]["states"] == list(ours.states[m])
        assert set(peer[name]["parents"]) == {ours.names[p] for p in ours.parents[m]}
        if tables:
            axes = [*reversed(peer[name]["parents"]), name]
            theirs = torch.tensor(peer[name]["table"]).double()
            theirs = theirs.permute([axes.index(ours.names[i]) for i in (*ours.parents[m], m)])
            assert torch.allclose(ours.tables[m], theirs / theirs.sum(-1, keepdim=True), atol=atol)


FILES = sorted([*CASES.glob("*/*.bif"), *CASES.glob("*/*.BIF")])


@pytest.fixture(scope="module")
def by_pyagrum(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("cases")
    copies = [folder / f"{path.parent.name}.bif" for path in FILES]  # it goes by the suffix
    for path, copy in zip(FILES, copies, strict=True):
        copy.write_text(path.read_text())
    return dict(zip((path.parent.name for path in FILES), ask("read", list(map(str, copies))), strict=True))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_case_is_read_as_pyagrum_reads_it_where_it_can(path: Path, by_pyagrum: dict[str, Any]) -> None:
    peer, ours = by_pyagrum[path.parent.name], bnicl.load_network(path, tables=False)
    if peer is None:
        pytest.skip("pyAgrum cannot read it")
    refused = path.parent.name == "03-unseen-parents-zero-row"  # its tables are
    assert_read_alike(ours if refused else bnicl.load_network(path), peer, atol=1e-6, tables=not refused)


def test_pyagrum_reads_most_cases(by_pyagrum: dict[str, Any]) -> None:
    assert sum(peer is not None for peer in by_pyagrum.values()) >= 9


@pytest.mark.parametrize("name", ["asia", "sachs", "alarm"])
def test_what_is_written_is_read_again_by_us_and_by_pgmpy(name: str, tmp_path: Path) -> None:
    net = bnicl.load_network(name)
    bnicl.write_bif(tmp_path / "net.bif", net)
    for again in (bnicl.load_network(tmp_path / "net.bif"), by_pgmpy((tmp_path / "net.bif").read_text())):
        assert (again.names, again.parents, again.states) == (net.names, net.parents, net.states)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(again.tables, net.tables, strict=True))


def test_odd_names_and_graphs_alone_can_be_written(tmp_path: Path) -> None:
    odd = bnicl.BayesianNetwork(
        ("probability", "b, c"), ((), (0,)), (2, 2), states=(("under 1,000", "{x}"), ("// no", "*"))
    )
    bnicl.write_bif(tmp_path / "net.bif", odd)
    again = bnicl.load_network(tmp_path / "net.bif")
    assert (again.names, again.states) == (odd.names, odd.states)
    assert again.tables[1].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    blanks = bnicl.BayesianNetwork(
        ("a b", "a", "b", "x"), ((), (), (), (1, 2)), (2, 2, 2, 2), states=(("p q", "p"),) * 4
    )
    bnicl.write_bif(tmp_path / "net.bif", blanks)
    assert bnicl.load_network(tmp_path / "net.bif").parents == blanks.parents
    for name in ('a"b', "a\rb", "a\nb"):
        with pytest.raises(ValueError, match="name: expected one without quotation marks and line ends, got"):
            bnicl.write_bif(tmp_path / "net.bif", bnicl.BayesianNetwork((name,), ((),), (2,)))
    with pytest.raises(ValueError, match="states of a: expected different names, got 1, '1'"):
        bnicl.write_bif(tmp_path / "net.bif", bnicl.BayesianNetwork(("a",), ((),), (2,), states=((1, "1"),)))
    assert bnicl.load_network(tmp_path / "net.bif").names == blanks.names  # what was there is still there


HEAD = "variable a { type discrete [ 2 ] { yes, no }; }\nvariable b { type discrete [ 3 ] { low, mid, high }; }\n"


def test_the_values_of_a_table_have_the_nodes_own_state_slowest() -> None:
    net = read_bif(HEAD + "probability (a) { table .2 .8; } probability (b | a) { table .1 .2 .3 .4 .6 .4; }", "x")
    assert net.tables[1].tolist() == [pytest.approx([0.1, 0.3, 0.6]), pytest.approx([0.2, 0.4, 0.4])]


def test_comments_blanks_and_properties_may_stand_anywhere() -> None:
    net = read_bif(
        'network "a } b" { property version 1.1 ; property "author = O{B}" ; }\n'
        "variable /* a name */ a // and more\n { property position = (12, 30) ;\n"
        "  type discrete\n [ 2 ]\n { yes , no } ; }\n"
        "variable b{type discrete[3]{low mid high};}\n"
        "probability(a){property link http://example.org ; table 0.2 , 0.8 ;}\n"
        "probability ( b |\n\n a ) { // rows\n ( yes ) 1 0 /* none */ 0 ; (no) 5e-1,.5, 0.0;}\n",
        "x",
    )
    assert net.states == (("yes", "no"), ("low", "mid", "high"))
    assert net.tables[1].tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


def test_names_may_be_keywords_or_hold_blanks_and_commas() -> None:
    net = read_bif(
        'variable table { type discrete [ 2 ] { default, "a, b" }; }\n'
        "variable network one { type discrete [ 2 ] { variable, probability }; }\n"
        "probability ( table ) { table 0.3, 0.7; }\n"
        'probability ( network one | table ) { (default) 1, 0; ("a, b") 0.5, 0.5; }\n',
        "x",
    )
    assert net.names == ("table", "network one")
    assert net.tables[1].tolist() == [[1, 0], [0.5, 0.5]]


def test_commas_and_quotation_marks_part_names_that_hold_blanks() -> None:
    net = read_bif(
        'variable "a b" {type discrete[2]{"p q", p};} variable a {type discrete[2]{p, "q r"};}\n'
        "variable b {type discrete[2]{0,1};} variable x {type discrete[2]{0,1};}\n"
        'probability("a b"){table 1 0;} probability(a | "a b"){("p q") 1 0; (p) 0 1;}\n'
        'probability(b){table 1 0;} probability(x | a, b){default 1 0; ("q r", 0) 0 1;}',
        "x",
    )
    x = net.names.index("x")
    assert [net.names[p] for p in net.parents[x]] == ["a", "b"]
    assert net.tables[x][1, 0].tolist() == [0, 1]


@pytest.mark.parametrize("tables", [True, False])
def test_a_property_may_hold_braces_in_a_block_of_rows(tables: bool) -> None:
    text = HEAD + "probability (a) { property p = {x}; table 1 0; }\nprobability (b) { table .2 .3 .5; }"
    assert read_bif(text, "x", tables).names == ("a", "b")
    assert read_bif(text.replace("\n", "\r"), "x", tables).names == ("a", "b")


def test_every_beginning_of_a_file_is_read_right_or_refused_in_one_line() -> None:
    text = HEAD + TABLES
    for n in range(len(text.rstrip())):
        with pytest.raises(ValueError, match=r"^x, line \d+: expected [^\n]*, got [^\n]*$"):
            read_bif(text[:n], "x")
    assert read_bif(text.rstrip(), "x").names == ("a", "b")


def test_the_row_that_says_more_wins_wherever_it_stands() -> None:
    net = read_bif(
        "variable a { type discrete [ 2 ] { 0, 1 }; } variable b { type discrete [ 2 ] { 0, 1 }; }\n"
        "variable c { type discrete [ 2 ] { 0, 1 }; }\n"
        "probability (a) { default .5 .5; } probability (b) { table 1 0; }\n"
        "probability (c | a, b) { (1, 1) 1 0; (1, *) .1 .9; default .3 .7; }",
        "x",
    )
    assert net.tables[2][..., 0].tolist() == [[0.3, 0.3], [0.1, 1.0]]


@pytest.mark.parametrize("suffix", ["bif", "BIF", "bif.gz", "Bif.GZ"])
def test_a_file_is_told_by_its_suffix_in_any_case(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a+b.{suffix}"
    text = (HEAD + "probability (a) { table 1 0; } probability (b) { table .2 .3 .5; }").encode()
    path.write_bytes(gzip.compress(text) if suffix.lower().endswith("gz") else text)
    assert is_network_file(str(path))
    assert bnicl.load_network(path).names == ("a", "b")


def test_xmlbif_is_read_by_pgmpy(tmp_path: Path) -> None:
    net = bnicl.load_network("asia")
    import_pgmpy().readwrite.XMLBIFWriter(net.to_pgmpy()).write(str(tmp_path / "asia.xml"))
    read = bnicl.load_network(tmp_path / "asia.xml")
    assert set(read.names) == set(net.names)
    either = read.names.index("either")
    assert {read.names[p] for p in read.parents[either]} == {"tub", "lung"}
    (tmp_path / "asia.xml").write_text("no xml")
    with pytest.raises(ValueError, match=r"asia\.xml: expected an XMLBIF file, got one that cannot be read"):
        bnicl.load_network(tmp_path / "asia.xml")


def test_rounded_rows_are_divided_by_their_sum() -> None:
    text = HEAD + "probability (a) { table 0.2 0.8; } probability (b) { table %s; }"
    assert read_bif(text % "0.33 0.33 0.33", "x").tables[1].tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(
        ValueError, match=r"x, line 3: expected a row of b that sums to 1 within 0\.01, got a sum of 0\.98"
    ):
        read_bif(text % "0.33 0.33 0.32", "x")


TABLES = "probability (a) {\n table 0.2, 0.8;\n}\nprobability (b | a) {\n (yes) 0.1 0.2 0.7;\n (no) 0.2 0.2 0.6;\n}\n"
BROKEN = [
    ("empty", "", "line 1: expected a BIF file with variables, got a file without any"),
    ("other text", "rows and columns", "line 1: expected network, variable or probability, got 'rows'"),
    ("cut in a row", HEAD + TABLES[:-12], "line 8: expected ';', got the end of the file"),
    ("cut between blocks", HEAD + TABLES[: TABLES.index("probability (b")], "for every variable .* got none for b"),
    ("no brace", "variable a type", "line 1: expected '{', got the end of the file"),
    ("unknown parent", HEAD + TABLES.replace("b | a", "b | z"), r"line 6: expected a variable \(a, b\), got 'z'"),
    ("unknown state", HEAD + TABLES.replace("(no)", "(maybe)"), r"expected a state \(yes, no, \*\), got 'maybe'"),
    ("a state too many", HEAD + TABLES.replace("(no)", "(no, no)"), r"line 8: .* \(no more states\), got 'no'"),
    ("a number too few", HEAD + TABLES.replace("0.2 0.2 0.6", "0.4 0.6"), "3 numbers in a row of b, got 2"),
    ("no number", HEAD + TABLES.replace("0.7", "most"), "line 7: expected a number, got 'most'"),
    ("negative", HEAD + TABLES.replace("0.2 0.2 0.6", "-0.2 0.6 0.6"), "expected probabilities for b given no"),
    ("not finite", HEAD + TABLES.replace("0.2 0.2 0.6", "nan 0.4 0.6"), "expected probabilities for b given no"),
    ("a row missing", HEAD + TABLES.replace(" (no) 0.2 0.2 0.6;\n", ""), "line 6: expected a row for every .* no"),
    ("a row twice", HEAD + TABLES.replace("(no)", "(yes)"), "line 8: expected each row of b once, got .* twice"),
    ("two tables", HEAD + TABLES + "probability (a) { table 1 0; }", "line 10: .* got two for a"),
    ("two variables", HEAD + HEAD, "line 3: expected each variable once, got a twice"),
    ("a wrong number of states", HEAD.replace("[ 3 ]", "[ 4 ]"), "line 2: expected 4 states of b, got 3: low"),
    ("one state", "variable a { type discrete [ 1 ] { yes }; }", "line 1: expected two different states of a or more"),
    ("continuous", "variable a { type continuous; }", "line 1: expected a to be discrete, got 'continuous'"),
    ("a cycle", HEAD + TABLES.replace("(a)", "(a | b)"), "expected a graph without cycles, got the cycle"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_bif(text, "x.bif")
    assert str(caught.value).startswith("x.bif")
    assert "\n" not in str(caught.value)


def test_tables_that_are_not_read_need_not_be_right() -> None:
    wrong = HEAD + "probability (a) { }\nprobability (b | a) {\n (yes) 9 nonsense; (unheard of) 0;\n}\n"
    net = read_bif(wrong, "x", tables=False)
    assert net.cpts is None
    assert net.parents == ((), (0,))
    with pytest.raises(ValueError, match="line 5: expected a number, got 'nonsense'"):
        read_bif(wrong, "x")


def test_a_file_that_gzip_cannot_unpack_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.bif.gz"
    path.write_bytes(gzip.compress(HEAD.encode() * 100)[:60])
    with pytest.raises(ValueError, match=r"cut\.bif\.gz: expected a file that gzip can unpack, got another"):
        bnicl.load_network(path)
