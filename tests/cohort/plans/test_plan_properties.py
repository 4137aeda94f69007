"""Properties of plans over generated tables."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from medi_monai.cohort import expand_plan, make_plan, read_plan
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_table

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6)
TABLES = st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=20).map(
    lambda rows: pd.DataFrame(rows, columns=["label", "site"], dtype="str")
)


def planned(table, kind, count=3):
    try:
        plan = make_plan(table, ["label", "site"], kind, count)
    except InputError as error:
        assert "is empty" in str(error)
        return Counter()
    assert not plan.duplicated(["label", "site"]).any()
    return Counter({(label, site): number for label, site, number in plan.itertuples(index=False)})


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_seen_and_unseen_are_all_combinations_and_a_balance_levels_them(table):
    rows = Counter(table.itertuples(index=False, name=None))
    product = set(itertools.product(set(table["label"]), set(table["site"])))
    unseen, observed, everything = (planned(table, kind) for kind in ("unseen", "observed", "all"))
    assert set(observed) == set(rows) and set(unseen) == product - set(rows)
    assert set(everything) == product and set((unseen + observed + everything).values()) <= {3, 6}
    balanced = planned(table, "balance")
    assert {rows[key] + balanced[key] for key in product} == {max(rows.values())}


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_a_plan_survives_a_file_and_numbers_its_images(table):
    plan = make_plan(table, ["label", "site"], "observed", 2)
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "plan.csv", plan)
        read = read_plan(Path(folder) / "plan.csv", ["label", "site"])
    assert read.to_dict("records") == plan.to_dict("records")
    images = expand_plan(read)
    assert len(images) == plan["count"].sum()
    numbers = images.groupby(["label", "site"])["number"].agg(list)
    assert all(list(of_one) == [0, 1] for of_one in numbers)
