"""A linear-Gaussian text space, in which directions, projections and shares are known in closed form."""

import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

pytest.importorskip("transformers")

from medi_monai.networks.text import DebiasedTextEncoder, FrozenTextEncoder, fit_subspace, make_tokenizer, small_clip
from medi_monai.utils.errors import InputError

LENGTH, DIM, GROUPS, NUM = 5, 12, 3, 3000
CAPTIONS = ["a brain of a man", "a brain of a woman", "an old brain of a man", "an old brain of a woman"]


def gaussian_states():
    """States ``content + direction of the subgroup + noise``; the subgroup shows only from the last word on."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(GROUPS, DIM, generator=generator, dtype=torch.float64)
    groups = torch.arange(GROUPS).repeat(NUM // GROUPS)
    ends = torch.randint(2, LENGTH, (NUM // GROUPS,), generator=generator).repeat_interleave(GROUPS)
    # the same content and noise for each subgroup, as in captions that differ in nothing else
    states = torch.randn(NUM // GROUPS, LENGTH, DIM, generator=generator, dtype=torch.float64).repeat_interleave(
        GROUPS, 0
    )
    after = torch.arange(LENGTH) >= ends[:, None]
    return states + after[..., None] * directions[groups][:, None], ends, groups, directions


def test_the_directions_are_those_of_the_text_space():
    states, ends, groups, directions = gaussian_states()
    subspace = fit_subspace(states, ends, groups, GROUPS)
    # before the last token there is nothing to remove; from there on, the span of the differences
    rank = (subspace.basis.norm(dim=1) > 0.5).sum(1)
    assert rank.tolist() == [0] * (LENGTH - 1) + [GROUPS - 1] * (LENGTH - 2) + [0, 0]
    centered = directions - directions.mean(0)
    expected = torch.linalg.svd(centered)[2][: GROUPS - 1]
    basis = subspace.basis[LENGTH - 1].T[: GROUPS - 1]
    assert torch.allclose(basis.T @ basis, expected.T @ expected, atol=1e-8)


def test_no_linear_function_of_debiased_states_predicts_the_subgroup():
    states, ends, groups, _ = gaussian_states()
    rows, last = (
        torch.arange(NUM),
        fit_subspace(states, ends, groups, GROUPS).removed(states, ends)[torch.arange(NUM), ends],
    )
    own = states[rows, ends].numpy()
    hot = torch.nn.functional.one_hot(groups, GROUPS).double().numpy()
    assert LinearRegression().fit(own, hot).score(own, hot) > 0.5
    assert LinearRegression().fit(last.numpy(), hot).score(last.numpy(), hot) == pytest.approx(0, abs=1e-9)


def test_placed_states_have_the_means_of_their_subgroups_and_the_shares_they_are_given():
    states, ends, groups, directions = gaussian_states()
    subspace = fit_subspace(states, ends, groups, GROUPS)
    neutral = states - directions[groups][:, None]
    wanted = torch.tensor([0] * 1500 + [1] * 900 + [2] * 600)
    placed = subspace.placed(neutral, ends, wanted)[torch.arange(NUM), ends]
    named = states[torch.arange(NUM), ends]
    for group in range(GROUPS):
        target = named[groups == group].mean(0)
        basis = subspace.basis[LENGTH - 1]
        assert torch.allclose(placed[wanted == group].mean(0) @ basis, target @ basis, atol=1e-8)
    # the classifier of the named states, restricted to the directions, finds exactly the shares
    basis = subspace.basis[LENGTH - 1].numpy()
    classifier = LogisticRegression(C=1e4).fit(named.numpy() @ basis, groups.numpy())
    shares = torch.bincount(torch.from_numpy(classifier.predict(placed.numpy() @ basis)), minlength=GROUPS) / NUM
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2])
    # nothing else of a state changes
    complement = torch.eye(DIM, dtype=torch.float64) - torch.from_numpy(basis @ basis.T)
    assert torch.allclose(placed @ complement, neutral[torch.arange(NUM), ends] @ complement, atol=1e-8)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    tokenizer = make_tokenizer(CAPTIONS)
    tower = small_clip(tokenizer, 16, 8, 32, 1, 2, 16).text_model
    return FrozenTextEncoder(tower, tokenizer)


def test_an_encoder_places_captions_and_leaves_the_null_caption(encoder):
    codes = encoder.tokenize(CAPTIONS)
    ends = encoder.mask(codes).sum(1) - 1
    subspace = fit_subspace(encoder(codes), ends, torch.tensor([0, 1, 0, 1]), 2)
    debiased = DebiasedTextEncoder(encoder, subspace)
    assert debiased.digest != encoder.digest and debiased.dim == encoder.dim
    null = debiased.null_codes(2)
    assert torch.equal(debiased(null), encoder(encoder.null_codes(2)))
    assert torch.equal(debiased.mask(null), encoder.mask(encoder.null_codes(2)))
    wanted = torch.tensor([1, 0, 1, -1])
    states = debiased(torch.cat([codes, wanted[:, None]], 1))
    assert torch.equal(states[3], encoder(codes)[3])
    by_hand = subspace.placed(encoder(codes), ends, wanted.clamp(min=0))
    assert torch.allclose(states[:3], by_hand[:3], atol=1e-6)
    # independent of the rest of the batch
    assert torch.allclose(debiased(torch.cat([codes, wanted[:, None]], 1)[1:2]), states[1:2], atol=1e-6)


def test_wrong_subgroups_are_refused(encoder):
    states, ends = torch.zeros(4, 3, 2), torch.tensor([2] * 4)
    with pytest.raises(InputError, match="one value"):
        fit_subspace(states, ends, torch.zeros(4, dtype=torch.long), 1)
    with pytest.raises(InputError, match=r"number \[1\]"):
        fit_subspace(states, ends, torch.tensor([0, 2, 0, 2]), 3)
