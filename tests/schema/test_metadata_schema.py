import itertools
import json
import random

import pandas as pd
import pytest
import torch

from medi_monai.cohort.samples import MANIFEST
from medi_monai.cohort.source import ROW_COLUMNS
from medi_monai.cohort.table import PATCH_COLUMNS
from medi_monai.cohort.tables import clean_cells
from medi_monai.schema import BUILT_IN, NULL, CategoricalColumn, ContinuousColumn, MetadataSchema, is_missing
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table

TABLE = pd.DataFrame(
    {
        "label": ["LUSC", "LUAD", "LUAD", "UCS", "LUSC"],
        "site": ["01", "NA", "B7", "", "NA"],
        "age": ["61", "", "80", "40", "55"],
        "slide": list("abcde"),
    }
)


@pytest.fixture
def schema():
    return MetadataSchema.from_table(TABLE, "label", ["site", "age"], continuous=["age"])


def changed(schema, **columns):
    attributes = [columns.get(column.name, column) for column in schema.attributes]
    return MetadataSchema(columns.get("label", schema.label), tuple(attributes))


def test_codes_equal_those_worked_out_by_hand(schema):
    unknown = -1
    expected = torch.tensor(
        [[1, 0, 21 / 40], [0, 2, unknown], [0, 1, 1], [2, unknown, 0], [1, 2, 15 / 40]], dtype=torch.float32
    )
    codes = schema.encode(TABLE)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-7)


def test_decode_inverts_encode_with_na_01_unknown_and_null(schema):
    codes = schema.encode(TABLE)
    codes[3, 0] = codes[4, 1] = codes[0, 2] = -2
    decoded = schema.decode(codes)
    assert decoded["label"].tolist() == ["LUSC", "LUAD", "LUAD", None, "LUSC"]
    assert decoded["site"].tolist() == ["01", "NA", "B7", "", None]
    assert decoded["age"].tolist() == [None, "", 80.0, 40.0, pytest.approx(55, abs=1e-4)]
    torch.testing.assert_close(schema.encode(decoded), codes)


def test_numbers_and_nan_in_a_table_are_encoded_like_their_strings(schema):
    table = TABLE.assign(age=[61, float("nan"), 80, 40, 55.0], site=TABLE["site"].replace("", float("nan")))
    assert torch.equal(schema.encode(table), schema.encode(TABLE))


def test_codes_survive_a_csv_file(schema, tmp_path):
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    assert torch.equal(schema.encode(read_table(tmp_path / "table.csv")), schema.encode(TABLE))


def test_the_order_of_rows_and_columns_does_not_count(schema):
    for seed in range(5):
        shuffled = TABLE.sample(frac=1, random_state=seed)
        shuffled = shuffled[random.Random(seed).sample(list(TABLE), 4)]
        assert MetadataSchema.from_table(shuffled, "label", ["site", "age"], ["age"]).digest == schema.digest
        assert torch.equal(schema.encode(shuffled), schema.encode(TABLE)[shuffled.index.to_list()])


def test_a_part_of_a_table_has_the_codes_of_the_whole(schema):
    # a vocabulary that is built anew from the rows at hand would renumber them
    assert torch.equal(schema.encode(TABLE.iloc[[4, 2]]), schema.encode(TABLE)[[4, 2]])


def test_an_unseen_value_names_attribute_value_and_nearest(schema):
    with pytest.raises(InputError) as caught:
        schema.encode({"label": ["LUSC"], "site": ["B8"], "age": ["50"]})
    assert all(text in str(caught.value) for text in ("'site'", "'B8'", "did you mean 'B7'"))


def test_unseen_values_become_unknown_where_asked(schema):
    rows = {"label": ["LUSC", "UCS"], "site": ["B8", "01"], "age": ["50", "99"]}
    assert schema.encode(rows, unseen="unknown").tolist() == [[1, -1, 0.25], [2, 0, -1]]
    with pytest.raises(InputError, match="'error', 'unknown'"):
        schema.encode(rows, unseen="ignore")


def test_a_missing_column_is_named_with_those_there_are(schema):
    with pytest.raises(InputError, match="'site'.*'slide'"):
        schema.encode(TABLE.drop(columns="site"))
    with pytest.raises(InputError, match="'sites': did you mean 'site'"):
        MetadataSchema.from_table(TABLE, "label", ["sites"])
    with pytest.raises(InputError, match="'age'"):
        MetadataSchema.from_table(TABLE, "label", ["site"], continuous=["age"])


def test_impossible_schemas_are_refused():
    site = CategoricalColumn("site", ("01",))
    with pytest.raises(InputError, match="must be different columns"):
        MetadataSchema(site, (site,))
    with pytest.raises(InputError, match="no value"):
        MetadataSchema(CategoricalColumn("label", ()), (site,))


def test_null_codes_decode_to_nothing(schema):
    codes = schema.null_codes(2)
    assert codes.shape == (2, 3) and (codes == -2).all()
    assert all(cell is None for column in schema.decode(codes).values.tolist() for cell in column)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 3, 1)])
def test_codes_of_a_wrong_shape_are_refused(schema, shape):
    with pytest.raises(InputError, match="3 columns"):
        schema.decode(torch.zeros(shape))


def test_the_digest_tells_any_two_schemas_apart(schema):
    site, age = schema.attributes
    others = [
        changed(schema, label=CategoricalColumn("label", ("LUAD", "LUSC"))),
        changed(schema, label=CategoricalColumn("label", ("LUSC", "LUAD", "UCS"))),
        changed(schema, site=CategoricalColumn("site", (*site.values, "C9"))),
        changed(schema, site=CategoricalColumn("center", site.values)),
        changed(schema, age=ContinuousColumn("age", age.low, age.high + 1)),
        changed(schema, age=CategoricalColumn("age", ("40", "80"))),
        MetadataSchema(schema.label, (age, site)),
        MetadataSchema(schema.label),
    ]
    digests = [each.digest for each in (schema, *others)]
    assert all(a != b for a, b in itertools.combinations(digests, 2))


def test_saved_and_loaded_schemas_are_equal_and_keep_their_digest(schema, tmp_path):
    schema.save(tmp_path / "schema.json")
    loaded = MetadataSchema.load(tmp_path / "schema.json")
    assert loaded == schema and loaded.digest == schema.digest
    assert torch.equal(loaded.encode(TABLE), schema.encode(TABLE))


def test_the_file_is_plain_json_with_the_vocabulary_in_the_order_of_its_codes(schema, tmp_path):
    schema.save(tmp_path / "schema.json")
    content = json.loads((tmp_path / "schema.json").read_text())
    assert content["label"] == {"name": "label", "kind": "categorical", "values": ["LUAD", "LUSC", "UCS"]}
    assert [column["name"] for column in content["attributes"]] == ["site", "age"]
    assert content["attributes"][0]["values"] == ["01", "B7", "NA"]


def test_a_missing_or_foreign_file_is_refused(schema, tmp_path):
    with pytest.raises(InputError, match="absent.json"):
        MetadataSchema.load(tmp_path / "absent.json")
    content = schema.to_dict()
    bad_kind = {**content, "attributes": [{"name": "x", "kind": "ordinal"}]}
    continuous_label = {**content, "label": content["attributes"][1], "attributes": []}
    for foreign in ({}, [], {**content, "format": 2}, {**content, "label": None}, bad_kind, continuous_label):
        (tmp_path / "schema.json").write_text(json.dumps(foreign))
        with pytest.raises(InputError):
            MetadataSchema.load(tmp_path / "schema.json")


def test_an_attribute_without_any_value_is_always_unknown():
    table = TABLE.assign(site="")
    schema = MetadataSchema.from_table(table, "label", ["site"])
    assert schema.encode(table)[:, 1].tolist() == [-1] * 5
    with pytest.raises(InputError, match="'site'"):
        schema.encode(TABLE)


def test_tcga_slides_round_trip_cell_by_cell(real_data):
    table = read_table(real_data / "tcga" / "slides.csv").apply(clean_cells)
    names = ["project_id", "tissue_source_site", "race", "gender"]
    schema = MetadataSchema.from_table(table, "project_id", names[1:])
    decoded = schema.decode(schema.encode(table))
    for name, column in zip(names, schema.columns):
        assert decoded[name].tolist() == ["" if is_missing(cell) else cell for cell in table[name]]
        assert list(column.values) == sorted({cell for cell in table[name] if not is_missing(cell)})
    assert "" in set(decoded["race"]), "the table should hold missing data"


def test_an_attribute_without_a_column_is_an_error_or_null():
    schema = MetadataSchema(CategoricalColumn("label", ("a",)), (CategoricalColumn("center", ("x",)),))
    with pytest.raises(InputError, match="'center'"):
        schema.encode({"label": ["a"]})
    assert schema.encode({"label": ["a"]}, absent="null").tolist() == [[0, NULL]]
    with pytest.raises(InputError, match="'label'"):
        schema.encode({"center": ["x"]}, absent="null")


@pytest.mark.parametrize("name", ["seed", "solver", "checkpoint", "number", "count", "combination", "image", "split"])
def test_names_of_built_in_columns_are_refused(name):
    table = pd.DataFrame({"tumor": ["a", "b"], name: ["x", "y"]})
    says = f"attribute '{name}' has the name of a built-in column: .* mapping: {{my_{name}: {{column: {name}}}}}"
    with pytest.raises(InputError, match=says):
        MetadataSchema.from_table(table, "tumor", [name])
    with pytest.raises(InputError, match=says):
        MetadataSchema.from_table(table, name)


def test_columns_of_cohorts_and_manifests_are_built_in():
    assert {*PATCH_COLUMNS, *ROW_COLUMNS, *MANIFEST} <= set(BUILT_IN)
