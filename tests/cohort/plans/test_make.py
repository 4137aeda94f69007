import itertools

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort import expand_plan, make_plan, read_plan
from medi_monai.cohort.plans import held_out_combinations
from medi_monai.utils.errors import InputError

COLUMNS = ["tumor", "center"]


def training_table(seed=0, columns=COLUMNS, rows=60):
    """Random rows in which the last values are rare; one combination is sure to lack."""
    rng = np.random.default_rng(seed)
    values = {name: [f"{name[0]}{value}" for value in rng.geometric(0.4, rows).clip(max=4)] for name in columns}
    table = pd.DataFrame(values)
    lacking = (table[list(columns)] == table.loc[0, list(columns)]).all(axis=1)
    for name in columns:
        table.loc[len(table)] = {**table.loc[0], name: f"{name[0]}9"}
    return table[~lacking.reindex(table.index, fill_value=False)].reset_index(drop=True)


def count(table, combination):
    """The rows of a combination, counted one by one."""
    return sum(all(row[name] == value for name, value in combination.items()) for row in table.to_dict("records"))


def every_combination(table, columns):
    for values in itertools.product(*(sorted(set(table[name])) for name in columns)):
        yield dict(zip(columns, values))


@pytest.mark.parametrize("columns", [COLUMNS, ["tumor", "center", "race"]])
@pytest.mark.parametrize("seed", range(3))
def test_plans_equal_a_count_over_every_combination(columns, seed):
    table = training_table(seed, columns)
    counts = [(combination, count(table, combination)) for combination in every_combination(table, columns)]
    largest = max(number for _, number in counts)
    expected = {
        "unseen": [{**combination, "count": 5} for combination, number in counts if number == 0],
        "observed": [{**combination, "count": 5} for combination, number in counts if number > 0],
        "balance": [{**combination, "count": largest - number} for combination, number in counts if number < largest],
    }
    assert all(expected.values())
    for kind, plan in expected.items():
        assert make_plan(table, columns, kind, 5).to_dict("records") == plan


def test_observed_and_unseen_together_are_every_combination_once():
    table = training_table(1)
    both = pd.concat([make_plan(table, COLUMNS, "unseen"), make_plan(table, COLUMNS, "observed")])
    assert not both.duplicated(COLUMNS).any()
    assert len(both) == table["tumor"].nunique() * table["center"].nunique()


def test_a_balanced_table_has_every_combination_as_often():
    table = training_table(2)
    plan = make_plan(table, COLUMNS, "balance")
    balanced = pd.concat([table, expand_plan(plan)[COLUMNS]])
    sizes = balanced.groupby(COLUMNS).size()
    assert sizes.nunique() == 1 and len(sizes) == table["tumor"].nunique() * table["center"].nunique()


def test_a_plan_does_not_depend_on_the_order_of_rows():
    table = training_table(3)
    for kind in ("unseen", "observed", "balance"):
        assert make_plan(table.sample(frac=1, random_state=1), COLUMNS, kind).equals(make_plan(table, COLUMNS, kind))


def test_missing_values_are_no_subpopulation():
    table = pd.DataFrame({"tumor": ["a", "a", "b", ""], "center": ["x", "", "y", "y"]})
    observed = make_plan(table, COLUMNS, "observed")[COLUMNS].to_numpy().tolist()
    unseen = make_plan(table, COLUMNS, "unseen")[COLUMNS].to_numpy().tolist()
    assert observed == [["a", "x"], ["b", "y"]] and unseen == [["a", "y"], ["b", "x"]]
    assert make_plan(table, COLUMNS, "balance")[COLUMNS].to_numpy().tolist() == unseen


def test_a_plan_of_the_label_alone_lists_the_classes():
    table = pd.DataFrame({"tumor": ["b", "a", "b", "b"]})
    assert make_plan(table, ["tumor"], "observed", 2).to_dict("list") == {"tumor": ["a", "b"], "count": [2, 2]}
    assert make_plan(table, ["tumor"], "balance").to_dict("list") == {"tumor": ["a"], "count": [2]}


def test_mistakes_in_a_plan_are_named():
    table = training_table()
    with pytest.raises(InputError, match="'unsen'.*did you mean 'unseen'"):
        make_plan(table, COLUMNS, "unsen")
    with pytest.raises(InputError, match="images_per_combination = 0"):
        make_plan(table, COLUMNS, "unseen", 0)
    with pytest.raises(InputError, match="'centre'.*did you mean 'center'"):
        make_plan(table, ["tumor", "centre"], "unseen")
    with pytest.raises(InputError, match="'all' needs one or more columns"):
        make_plan(table, [], "all")


@pytest.mark.parametrize("kind", ["unseen", "balance"])
def test_a_plan_without_a_row_is_refused(kind):
    complete = pd.DataFrame(list(itertools.product("ab", "xyz")), columns=COLUMNS)
    with pytest.raises(InputError, match=f"'{kind}' is empty"):
        make_plan(complete, COLUMNS, kind)


def test_duplicated_rows_of_a_plan_are_summed_and_na_and_01_kept(tmp_path):
    (tmp_path / "plan.csv").write_text("count,tumor,center,note\n2,NA,01,\n3,b,1,\n4,NA,01,\n1,NA,1,\n1,NA,01,other\n")
    assert read_plan(tmp_path / "plan.csv", COLUMNS).to_dict("list") == {
        "tumor": ["NA", "b", "NA", "NA"],
        "center": ["01", "1", "1", "01"],
        "note": ["", "", "", "other"],
        "count": [6, 3, 1, 1],
    }


def test_a_plan_that_leaves_every_column_to_the_model_is_a_count(tmp_path):
    (tmp_path / "plan.csv").write_text("count\n3\n 4 \n")
    plan = read_plan(tmp_path / "plan.csv", [])
    assert plan.to_dict("list") == {"count": [7]}
    assert expand_plan(plan).to_dict("list") == {"number": list(range(7))}


def test_a_plan_made_written_and_read_is_the_same(tmp_path):
    plan = make_plan(training_table(), COLUMNS, "balance")
    plan.to_csv(tmp_path / "plan.csv", index=False)
    plan.to_parquet(tmp_path / "plan.parquet")
    for name in ("plan.csv", "plan.parquet"):
        assert read_plan(tmp_path / name, COLUMNS).to_dict("list") == plan.to_dict("list")


@pytest.mark.parametrize("wrong", ["0", "-3", "2.5", "many", "", "1e3", "nan"])
def test_a_count_that_is_no_whole_number_is_refused_with_its_row(tmp_path, wrong):
    (tmp_path / "plan.csv").write_text(f"tumor,center,count\na,x,1\na,y, 7 \nb,x,{wrong}\nb,y,2\n")
    with pytest.raises(InputError, match=f"plan.csv, row 3: count '{wrong}'"):
        read_plan(tmp_path / "plan.csv", COLUMNS)


def test_a_plan_that_lacks_a_column_is_refused(tmp_path):
    (tmp_path / "plan.csv").write_text("tumor,center,counts\na,x,1\n")
    with pytest.raises(InputError, match="'count'.*did you mean 'counts'"):
        read_plan(tmp_path / "plan.csv", COLUMNS)
    with pytest.raises(InputError, match="absent.csv"):
        read_plan(tmp_path / "absent.csv", COLUMNS)


def test_every_image_of_a_plan_has_its_place_in_its_combination():
    plan = make_plan(training_table(4), COLUMNS, "balance")
    images = expand_plan(plan)
    assert len(images) == plan["count"].sum() and images.index.tolist() == list(range(len(images)))
    for row in plan.to_dict("records"):
        own = images[(images["tumor"] == row["tumor"]) & (images["center"] == row["center"])]
        assert own["number"].tolist() == list(range(row["count"]))


def test_identities_do_not_depend_on_the_order_of_the_plan_and_grow_with_its_counts():
    plan = make_plan(training_table(5), COLUMNS, "balance")

    def identities(table):
        return set(expand_plan(table).itertuples(index=False, name=None))

    assert identities(plan.sample(frac=1, random_state=3)) == identities(plan)
    assert identities(plan) < identities(plan.assign(count=plan["count"] + 1))


def test_plans_that_no_machine_can_list_are_refused():
    table = pd.DataFrame({f"column {number}": list("abcdefghij") for number in range(9)})
    with pytest.raises(InputError, match=r"'all' of .* has 1,000,000,000 combinations.*name fewer columns"):
        make_plan(table, list(table.columns), "all")
    assert len(make_plan(table, list(table.columns), "observed")) == 10
    with pytest.raises(InputError, match="a plan of 4,611,686,018,427,387,904 images: this takes .* EB of memory"):
        expand_plan(pd.DataFrame({"tumor": ["A"], "count": [2**62]}))


def test_held_out_combinations_equal_a_count_over_every_combination():
    table = training_table().assign(split=np.random.default_rng(0).choice(["train", "val", "holdout", "excluded"], 58))
    table.loc[0, "center"] = ""
    in_split = {split: table[table["split"] == split] for split in ("train", "val", "holdout")}
    expected = [
        (row["tumor"], row["center"])
        for row in every_combination(table, COLUMNS)
        if row["center"]
        and not count(in_split["train"], row)
        and any(count(in_split[split], row) for split in ("val", "holdout"))
    ]
    assert expected and held_out_combinations(table, COLUMNS) == expected
