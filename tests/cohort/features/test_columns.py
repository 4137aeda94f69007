"""Features in a Parquet table: a column of lists or numbered columns, found or named."""

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.features.columns import feature_columns_of, read_feature_columns
from medi_monai.utils.errors import InputError

VALUES = np.random.default_rng(0).normal(size=(5, 12)).astype("float32")
KEYS = pd.DataFrame({"slide": list("abcde"), "age1": 1.0, "grade": [1, 2, 3, 1, 2]})


def numbered(start="feature_"):
    return pd.DataFrame(VALUES, columns=[f"{start}{number}" for number in range(12)])


def written(path, *frames):
    pd.concat(frames, axis=1).to_parquet(path)
    return path


def test_numbered_columns_are_taken_in_the_order_of_their_numbers(tmp_path):
    shuffled = numbered()[[f"feature_{number}" for number in np.random.default_rng(1).permutation(12)]]
    path = written(tmp_path / "a.parquet", KEYS, shuffled)
    assert feature_columns_of(path) == [f"feature_{number}" for number in range(12)]
    assert np.array_equal(read_feature_columns(path), VALUES)
    bare = written(tmp_path / "b.parquet", KEYS, numbered(""))
    assert np.array_equal(read_feature_columns(bare), VALUES)


def test_a_column_of_lists_is_a_matrix(tmp_path):
    path = written(tmp_path / "a.parquet", KEYS.assign(embedding=list(VALUES)))
    assert np.array_equal(read_feature_columns(path), VALUES)
    assert read_feature_columns(path, "embedding").dtype == np.float32


def test_of_several_groups_one_is_named(tmp_path):
    path = written(tmp_path / "a.parquet", KEYS.assign(embedding=list(VALUES)), numbered("uni"), -numbered("conch"))
    with pytest.raises(InputError, match="several groups of columns .*'embedding', 'uni', 'conch'.*--feature_columns"):
        read_feature_columns(path)
    assert np.array_equal(read_feature_columns(path, "conch"), -VALUES)
    with pytest.raises(InputError, match="unknown feature_columns 'con': did you mean 'conch'"):
        read_feature_columns(path, "con")


def test_what_is_no_features_is_one_line(tmp_path):
    with pytest.raises(InputError, match="has no column of lists of floats and no numbered columns"):
        read_feature_columns(written(tmp_path / "a.parquet", KEYS))
    with pytest.raises(InputError, match="'e' has 11 features in row 3, and 12 in others; use one encoder"):
        read_feature_columns(written(tmp_path / "b.parquet", pd.DataFrame({"e": [*VALUES[:3], VALUES[3, 1:]]})))
    with pytest.raises(InputError, match="'e' has no list in row 1"):
        read_feature_columns(written(tmp_path / "c.parquet", pd.DataFrame({"e": [VALUES[0], None, VALUES[1]]})))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_feature_columns(tmp_path / "d.parquet")


def test_a_missing_value_is_nan(tmp_path):
    frame = numbered()
    frame.iloc[2, 3] = np.nan
    assert np.isnan(read_feature_columns(written(tmp_path / "a.parquet", frame))[2, 3])
