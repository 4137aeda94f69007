import pandas as pd
import pytest
import torch

from medi_monai.schema import AddedValue, CategoricalColumn, ContinuousColumn, ExtendedSchema, MetadataSchema, Mixture
from medi_monai.utils.errors import InputError

CENTER = CategoricalColumn("center", ("Ash", "Birch"))
BASE = MetadataSchema(CategoricalColumn("label", ("A", "B")), (CENTER, ContinuousColumn("age", 20, 80)))
YEW = AddedValue("center", "Yew", "0" * 64)
MIXTURE = Mixture.of(CENTER, [("Ash", 30), ("Birch", 70)])


def test_codes_of_the_training_stay_and_further_values_come_last():
    schema = ExtendedSchema.of(BASE, [YEW], [MIXTURE])
    table = pd.DataFrame({"label": ["A", "B"], "center": ["Birch", ""], "age": [20, 50]})
    assert torch.equal(schema.encode(table), BASE.encode(table))
    assert torch.equal(schema.null_codes(2), BASE.null_codes(2))
    assert schema.encode(table.assign(center=["Yew", "Ash:30+Birch:70"]))[:, 1].tolist() == [2, 3]
    assert schema.decode(torch.tensor([[0, 3, -2.0]]))["center"].tolist() == ["Ash:30+Birch:70"]


def test_the_digest_tells_learned_values_apart_and_not_mixtures():
    assert ExtendedSchema.of(BASE, [], [MIXTURE]).digest == BASE.digest
    learned = ExtendedSchema.of(BASE, [YEW])
    again = ExtendedSchema.of(BASE, [AddedValue("center", "Yew", "1" * 64)])
    assert len({BASE.digest, learned.digest, again.digest}) == 3
    assert ExtendedSchema.of(BASE, [YEW], [MIXTURE]).digest == learned.digest
    assert learned.base is BASE


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("center", "Ash", "has this value already"),
        ("age", "Yew", "is continuous"),
        ("site", "Yew", r"not one of \['label', 'center', 'age'\]"),
    ],
)
def test_what_cannot_be_added_is_refused(column, value, message):
    with pytest.raises(InputError, match=message):
        ExtendedSchema.of(BASE, [AddedValue(column, value, "")])
