import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.subgroup_prompts import (
    DebiasedPrompts,
    NamedPrompts,
    named_versions,
    spread_subgroups,
    subgroup_schema,
    with_text_encoder,
)
from medi_monai.cohort import Cohort
from medi_monai.networks.text import CaptionSchema, FrozenTextEncoder, TextDiffusionUNet, make_tokenizer, small_clip
from medi_monai.utils.errors import InputError

VALUES = ("female", "male")
WORDS = {"sex": {"female": ("woman", "female"), "male": ("man", "male")}}
PROMPTS = [
    f"a brain of {age} patient with {lesion}" for age in ("a young", "an old") for lesion in ("a lesion", "none")
]
NAMED = [prompt.replace("patient", word) for prompt in PROMPTS for word in ("woman", "man", "man")]


@pytest.fixture(scope="module")
def schema():
    torch.manual_seed(0)
    tokenizer = make_tokenizer([*PROMPTS, *NAMED])
    return CaptionSchema(FrozenTextEncoder(small_clip(tokenizer, 16, 8, 32, 1, 2, 16).text_model, tokenizer))


@pytest.fixture
def target():
    return make_target({"female": 0.3, "male": 0.7}, {"sex": VALUES})


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.7), (0.1, 0.0, 0.65, 0.25)])
def test_any_run_of_images_of_a_prompt_has_the_shares(shares):
    for start in (0, 17):
        numbers = range(start, start + 200)
        groups = spread_subgroups(["a prompt"] * 200, numbers, shares, seed=3)
        counts = np.bincount(groups, minlength=len(shares))
        # independent draws would differ by 7 images
        assert np.abs(counts - 200 * np.array(shares)).max() <= 3
        assert counts[np.array(shares) == 0].sum() == 0


def test_the_subgroup_of_an_image_depends_on_seed_prompt_and_number_alone():
    prompts, numbers = ["a"] * 40 + ["b"] * 40, [*range(40)] * 2
    together = spread_subgroups(prompts, numbers, (0.5, 0.5), 0)
    order = np.random.default_rng(0).permutation(80)[:30]
    chosen = spread_subgroups([prompts[i] for i in order], [numbers[i] for i in order], (0.5, 0.5), 0)
    assert (chosen == together[order]).all()
    assert (together != spread_subgroups(prompts, numbers, (0.5, 0.5), 1)).any()
    assert (together[:40] != together[40:]).any()


def test_a_prompt_is_named_by_the_nearest_caption_of_the_training(target):
    captions = pd.Series([*NAMED, "a lesion of a woman", "a brain of a woman and a man"])
    made = named_versions([*PROMPTS, "an axial slice of something else entirely"], captions, WORDS, target)
    for prompt in PROMPTS:
        assert made[prompt] == [prompt.replace("patient", "woman"), prompt.replace("patient", "man")]
    other = "an axial slice of something else entirely"
    assert made[other] == [f"{other}, woman", f"{other}, man"]
    with pytest.raises(InputError, match="value of 'sex' in the target"):
        named_versions(PROMPTS, captions, {"sex": {"female": ("woman",), "boy": ("boy",)}}, target)


def test_of_two_equally_near_captions_the_more_frequent_names_a_prompt(target):
    captions = pd.Series(["a fit woman", "a young woman", "a young woman", "a man"])
    assert named_versions(["a patient"], captions, WORDS, target)["a patient"] == ["a young woman", "a man"]


def rows(count=50):
    table = pd.DataFrame({"caption": [prompt for prompt in PROMPTS for _ in range(count)]})
    return table.assign(number=[*range(count)] * len(PROMPTS))


def test_named_prompts_are_encoded_at_the_shares(schema, target):
    versions = named_versions(PROMPTS, pd.Series(NAMED), WORDS, target)
    named = NamedPrompts(schema, versions, target, seed=0)
    table = rows()
    codes, groups = named.encode(table), named.subgroups(table)
    for index in (0, 57, 199):
        caption = versions[table["caption"][index]][groups[index]]
        assert torch.equal(codes[index], schema.text_encoder.tokenize([caption])[0])
    assert (groups == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(named.null_codes(2), schema.null_codes(2))
    assert len({schema.digest, named.digest, NamedPrompts(schema, versions, target, seed=1).digest}) == 3
    with pytest.raises(InputError, match="'a brain' is not one of those given"):
        named.encode(pd.DataFrame({"caption": ["a brain"], "number": [0]}))


def network(text_encoder, pooled=True):
    torch.manual_seed(1)
    made = TextDiffusionUNet(
        text_encoder, pooled, spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 16), num_res_blocks=1,
        attention_levels=(False, True), norm_num_groups=8, num_head_channels=8,
    )  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


@pytest.mark.parametrize("pooled", [True, False])
@torch.no_grad()
def test_a_network_sees_the_debiased_embeddings(schema, target, pooled):
    versions = named_versions(PROMPTS, pd.Series(NAMED), WORDS, target)
    debiased, table, encoder = DebiasedPrompts(schema, versions, target, seed=0), rows(4), schema.text_encoder
    untouched = network(encoder, pooled)
    changed = with_text_encoder(network(encoder, pooled), debiased)
    images, times, codes = torch.randn(len(table), 1, 8, 8), torch.full((len(table),), 5.0), debiased.encode(table)
    made = changed(images, times, conditions=codes)
    # prompts without their subgroup are those of the model
    alone = torch.cat([codes[:, :-1], torch.full((len(table), 1), -1)], 1)
    before = untouched(images, times, conditions=codes[:, :-1])
    assert torch.allclose(changed(images, times, conditions=alone), before, atol=1e-5)
    assert (made - before).abs().amax((1, 2, 3)).min() > 1e-4
    # a row is the same in another batch, and the null caption has a state
    assert torch.allclose(changed(images[3:5], times[3:5], conditions=codes[3:5]), made[3:5], atol=1e-5)
    assert torch.isfinite(changed(images[:2], times[:2], conditions=debiased.null_codes(2))).all()


def test_debiased_embeddings_of_neutral_prompts_are_nearest_to_their_subgroup(schema, target):
    versions = named_versions(PROMPTS, pd.Series(NAMED), WORDS, target)
    debiased, table, encoder = DebiasedPrompts(schema, versions, target, seed=0), rows(4), schema.text_encoder
    codes = debiased.encode(table)
    ends, order = debiased.text_encoder.mask(codes).sum(1) - 1, torch.arange(len(codes))
    own = debiased.text_encoder(codes)[order, ends]
    means = []
    for group in range(2):
        named = encoder.tokenize([of_prompt[group] for of_prompt in versions.values()])
        means.append(encoder(named)[torch.arange(len(named)), encoder.mask(named).sum(1) - 1].mean(0))
    direction = means[1] - means[0]
    middle = (means[0] + means[1]) / 2
    assert (((own - middle) @ direction > 0).long() == codes[:, -1]).all()


def test_choices(schema, tmp_path):
    table = pd.DataFrame({"caption": [*PROMPTS, *NAMED[:5]], "sex": ["female", "male", "female"] * 3})
    cohort = Cohort(table, tmp_path)
    given = PROMPTS, lambda: cohort, {"words": {"sex": {"female": "woman", "male": "man"}}}, "sex", "uniform"
    assert subgroup_schema("model", schema, [], None, None, None, None) is schema
    made = subgroup_schema("named", schema, *given)
    assert isinstance(made, NamedPrompts) and made.target.probabilities == (0.5, 0.5)
    assert isinstance(subgroup_schema("debiased", schema, *given), DebiasedPrompts)
    with pytest.raises(InputError, match="unknown choice of `subgroups` 'name'"):
        subgroup_schema("name", schema, *given)
    with pytest.raises(InputError, match="an attribute is needed here"):
        subgroup_schema("named", schema, *given[:3], None, "uniform")
    with pytest.raises(InputError, match="needs target shares"):
        subgroup_schema("named", schema, *given[:4], None)
