"""The table of prices: found or a stand-in, looked at before anything is learnt, split and standardised."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor

from harness.runtime import DataError, find_data

TARGET = "SalePrice"
AMES_ROWS = 1460


class Table(NamedTuple):
    """Features of shape (n, columns), float64, NaN where unknown; target of shape (n,).

    ``score``: "rmse_log" compares logarithms (an error of 10 % costs the same for a hut and a palace), "rmse" does not.
    """

    source: str
    features: np.ndarray
    target: np.ndarray
    score: str


class Data(NamedTuple):
    """Standardised features (n, columns) and targets (n, 1) on the device."""

    train_features: Tensor
    train_target: Tensor
    test_features: Tensor
    test_target: Tensor


def load_table() -> Table:
    """The Ames house prices where the site has them, else scikit-learn's diabetes set (442 patients, 10 columns)."""
    folder = find_data("ames")
    if folder is not None:
        return read_ames(folder / "train.csv")
    features, target = load_diabetes(return_X_y=True)
    return Table("diabetes", features, target, "rmse")


def read_ames(path: Path) -> Table:
    """Kaggle's train.csv: its numeric columns, without the row number.

    Raises:
        DataError: missing, no CSV, truncated, or without usable prices.
    """
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; the data set is incomplete") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error
    if TARGET not in frame:
        raise DataError(f"{path}: has no column '{TARGET}'; it begins with: {', '.join(map(str, frame.columns[:5]))}")
    numeric = frame.select_dtypes("number")
    if TARGET not in numeric:
        raise DataError(f"{path}: column '{TARGET}' holds text, not numbers")
    target = numeric[TARGET].to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(target) & (target > 0)))
    if len(bad):
        raise DataError(
            f"{path}: line {bad[0] + 2}: '{TARGET}' is {target[bad[0]]}, not a price; is the file truncated?"
        )
    features = numeric.drop(columns=[TARGET, "Id"], errors="ignore")
    if features.empty or len(frame) < 10:
        raise DataError(f"{path}: {len(frame)} rows and {features.shape[1]} numeric columns are too few to learn from")
    if len(frame) != AMES_ROWS:
        print(f"warning: {path} has {len(frame)} rows; Kaggle's train.csv has {AMES_ROWS}")
    return Table("ames", features.to_numpy(dtype=np.float64), target, "rmse_log")


def prepare(table: Table, test_share: float, split_seed: int, device: torch.device) -> Data:
    """Split, fill gaps with the column's mean, standardise; means and deviations are those of the training rows."""
    train_x, test_x, train_y, test_y = train_test_split(
        table.features, table.target, test_size=test_share, random_state=split_seed
    )
    known = ~np.isnan(train_x)
    mean = np.where(known, train_x, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    train_x, test_x = (np.where(np.isnan(part), mean, part) - mean for part in (train_x, test_x))
    deviation = train_x.std(axis=0)
    deviation[deviation == 0] = 1  # a constant column says nothing and stays zero
    parts = (train_x / deviation, train_y[:, None], test_x / deviation, test_y[:, None])
    return Data(*(torch.tensor(part, dtype=torch.float32, device=device) for part in parts))
