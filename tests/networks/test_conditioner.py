import math

import numpy as np
import pytest
import torch

from medi_monai.networks.conditioner import MODES, MetadataConditioner, drop_to_null
from medi_monai.schema import (
    NULL,
    UNKNOWN,
    AddedValue,
    CategoricalColumn,
    ContinuousColumn,
    ExtendedSchema,
    MetadataSchema,
    Mixture,
)
from medi_monai.utils.errors import InputError

LABEL = CategoricalColumn("label", ("LUAD", "LUSC", "UCS"))
SITE = CategoricalColumn("site", ("01", "B7", "NA"))
AGE = ContinuousColumn("age", 20.0, 90.0)
SCHEMA = MetadataSchema(LABEL, (SITE, AGE))
CODES = torch.tensor([[0, 2, 0.3], [2, NULL, UNKNOWN], [NULL, UNKNOWN, 1.0], [1, 0, NULL]])


@pytest.fixture(params=MODES)
def conditioner(request):
    torch.manual_seed(0)
    return MetadataConditioner(SCHEMA, 10, request.param)


def by_hand(embedding, code, column):
    # a categorical table starts with null and unknown; a number is sine and cosine features through two layers
    if isinstance(column, CategoricalColumn):
        return embedding.table.weight.detach().numpy()[int(code) + 2]
    if code < 0:
        return embedding.tokens.weight.detach().numpy()[int(code) + 2]
    phase = float(code) * math.pi * 2.0 ** np.linspace(0, 6, 16)
    w1, b1, w2, b2 = (each.detach().numpy() for each in embedding.project.parameters())
    hidden = w1 @ np.concatenate([np.sin(phase), np.cos(phase)]) + b1
    return w2 @ (hidden / (1 + np.exp(-hidden))) + b2


def test_every_mode_equals_its_formula(conditioner):
    rows = []
    for codes in CODES.tolist():
        vectors = [by_hand(*each) for each in zip(conditioner.embeddings, codes, SCHEMA.columns)]
        if conditioner.mode == "concat":
            assert [len(vector) for vector in vectors] == [4, 3, 3]
            rows.append(np.concatenate(vectors))
        elif conditioner.mode == "additive":
            rows.append(vectors[0] + vectors[1] + vectors[2])
        else:
            weight, bias = (each.detach().numpy() for each in conditioner.project.parameters())
            rows.append(weight @ np.concatenate(vectors) + bias)
    np.testing.assert_allclose(conditioner(CODES).detach().numpy(), np.stack(rows), rtol=0, atol=2e-5)


def test_null_unknown_and_every_value_have_vectors_of_their_own(conditioner):
    values = {0: (0, 1, 2), 1: (0, 1, 2), 2: (0, 0.01, 0.5, 1)}
    for column, column_values in values.items():
        codes = torch.zeros(len(column_values) + 2, 3)
        codes[:, column] = torch.tensor([NULL, UNKNOWN, *column_values])
        distances = torch.pdist(conditioner(codes))
        assert distances.min() > 1e-3


def test_an_image_does_not_hear_its_neighbors(conditioner):
    alone = torch.cat([conditioner(codes[None]) for codes in CODES])
    torch.testing.assert_close(conditioner(CODES), alone)


def test_gradients_reach_only_the_rows_used(conditioner):
    conditioner(CODES[:2]).square().sum().backward()
    label, site, age = conditioner.embeddings
    assert [row.abs().sum() > 0 for row in label.table.weight.grad] == [False, False, True, False, True]
    assert [row.abs().sum() > 0 for row in site.table.weight.grad] == [True, False, False, False, True]
    assert [row.abs().sum() > 0 for row in age.tokens.weight.grad] == [False, True]


def test_null_and_unknown_numbers_train_their_tokens_and_no_projection(conditioner):
    conditioner(CODES[[1, 3]]).square().sum().backward()
    age = conditioner.embeddings[2]
    assert [row.abs().sum() > 0 for row in age.tokens.weight.grad] == [True, True]
    assert all(parameter.grad.abs().sum() == 0 for parameter in age.project.parameters())


def test_class_only_is_a_table_of_the_full_width():
    conditioner = MetadataConditioner(MetadataSchema(LABEL), 12)
    codes = torch.tensor([[2.0], [NULL], [0.0]])
    assert torch.equal(conditioner(codes), conditioner.embeddings[0].table.weight[[4, 0, 2]])


def test_mistakes_name_what_is_allowed():
    with pytest.raises(InputError, match="'concat', 'additive', 'linear'"):
        MetadataConditioner(SCHEMA, 10, "concatenate")
    with pytest.raises(InputError, match="3 columns do not fit"):
        MetadataConditioner(SCHEMA, 2)
    with pytest.raises(InputError, match=r"\(2, 2\).*'label', 'site', 'age'"):
        MetadataConditioner(SCHEMA, 10)(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "other",
    [
        MetadataSchema(LABEL, (CategoricalColumn("site", ("B7", "01", "NA")), AGE)),
        MetadataSchema(LABEL, (CategoricalColumn("center", SITE.values), AGE)),
        MetadataSchema(LABEL, (SITE, ContinuousColumn("age", 20.0, 80.0))),
    ],
)
def test_weights_of_a_schema_with_the_same_shapes_and_other_meanings_are_refused(other):
    weights = MetadataConditioner(SCHEMA, 10).state_dict()
    with pytest.raises(InputError, match="a different schema"):
        MetadataConditioner(other, 10).load_state_dict(weights)


def test_weights_of_the_same_schema_give_the_same_vectors(conditioner):
    fresh = MetadataConditioner(MetadataSchema.from_dict(SCHEMA.to_dict()), 10, conditioner.mode)
    assert not torch.equal(fresh(CODES), conditioner(CODES))
    fresh.load_state_dict(conditioner.state_dict())
    assert torch.equal(fresh(CODES), conditioner(CODES))


def binomial(count, total, probability):
    # within five standard deviations: fails by chance once in two million
    return abs(count - total * probability) < 5 * math.sqrt(total * probability * (1 - probability))


def test_dropping_has_the_frequencies_asked_for_and_is_independent_per_column():
    total, probability = 40000, (0.1, 0.3, 0.3)
    codes = drop_to_null(torch.ones(total, 3), *probability[:2], torch.Generator().manual_seed(0))
    dropped = codes == NULL
    assert ((codes == 1) | dropped).all()
    for column in range(3):
        assert binomial(int(dropped[:, column].sum()), total, probability[column])
        for earlier in range(column):
            both = int((dropped[:, column] & dropped[:, earlier]).sum())
            assert binomial(both, total, probability[column] * probability[earlier])
    assert binomial(int(dropped.all(dim=1).sum()), total, math.prod(probability))


def test_dropping_is_independent_per_row():
    dropped = drop_to_null(torch.ones(40000, 1), 0.2, 0.0, torch.Generator().manual_seed(1))[:, 0] == NULL
    assert binomial(int((dropped[:-1] & dropped[1:]).sum()), 39999, 0.04)


@pytest.mark.parametrize(("label", "attribute", "nulls"), [(0, 0, [0, 0, 0]), (1, 0, [9, 0, 0]), (0, 1, [0, 9, 9])])
def test_dropping_never_and_always(label, attribute, nulls):
    codes = torch.full((9, 3), float(UNKNOWN))
    assert (drop_to_null(codes, label, attribute) == NULL).sum(0).tolist() == nulls
    assert (codes == UNKNOWN).all(), "the codes that came in are left alone"


def test_dropping_repeats_with_its_generator():
    first, again, other = (
        drop_to_null(torch.ones(200, 3), 0.5, 0.5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def extended_schema():
    mixtures = [Mixture.of(SITE, [("01", 30), ("NA", 70)]), Mixture.of(LABEL, [("LUAD", 1), ("UCS", 1)])]
    return ExtendedSchema.of(SCHEMA, [AddedValue("site", "X", "0" * 64)], mixtures)


def test_z_of_a_mixture_is_the_weighted_combination_of_the_zs_of_its_values(conditioner):
    extended = conditioner.extended(extended_schema(), {("site", "X"): torch.arange(10.0)[: _width(conditioner)]})
    values = conditioner(torch.tensor([[1, 0, 0.3], [1, 2, 0.3]]))
    mixed = extended(torch.tensor([[1, 4, 0.3]]))[0]
    torch.testing.assert_close(mixed, 0.3 * values[0] + 0.7 * values[1], rtol=0, atol=1e-6)
    labels = conditioner(torch.tensor([[0, NULL, UNKNOWN], [2, NULL, UNKNOWN]]))
    torch.testing.assert_close(extended(torch.tensor([[3, NULL, UNKNOWN]]))[0], labels.mean(0), rtol=0, atol=1e-6)


def test_an_extended_conditioner_embeds_all_codes_of_the_training_alike_and_changes_no_weight(conditioner):
    before = {name: value.clone() for name, value in conditioner.state_dict().items()}
    row = torch.arange(10.0)[: _width(conditioner)]
    extended = conditioner.extended(extended_schema(), {("site", "X"): row})
    assert torch.equal(extended(CODES), conditioner(CODES))
    assert torch.equal(extended.embeddings[1](torch.tensor([3.0]))[0], row)
    assert all(torch.equal(value, before[name]) for name, value in conditioner.state_dict().items())


def _width(conditioner):
    return conditioner.embeddings[1].table.weight.shape[1]


def test_an_offset_of_a_learned_value_is_added_to_its_z_alone_and_in_proportion_to_a_mixture(conditioner):
    width = _width(conditioner)
    row, offset = torch.arange(10.0)[:width], torch.arange(10.0).flip(0)
    schema = ExtendedSchema.of(SCHEMA, [AddedValue("site", "X", "")])
    site = next(column for column in schema.columns if column.name == "site")
    schema = ExtendedSchema.of(SCHEMA, schema.added, [Mixture.of(site, [("01", 75), ("X", 25)])])
    bare = conditioner.extended(schema, {("site", "X"): row})
    wide = conditioner.extended(schema, {("site", "X"): torch.cat([row, offset])})
    codes = torch.tensor([[1, 3, 0.3], [1, 4, 0.3], [1, 0, 0.3], [1, NULL, 0.3]])
    expected = torch.stack([offset, 0.25 * offset, 0 * offset, 0 * offset])
    torch.testing.assert_close(wide(codes) - bare(codes), expected, rtol=0, atol=1e-5)
    again = wide.extended(schema, {("site", "X"): row})
    assert torch.equal(again(codes), bare(codes))
