"""Reach a target without tuning: prompts that name subgroups, and debiased embeddings of neutral prompts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import SubgroupTarget
from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.alignment.prompts import caption_words
from medi_monai.alignment.resampling import cohort_target
from medi_monai.alignment.settings import SUBGROUP_CHOICES
from medi_monai.cohort import Cohort
from medi_monai.cohort.captions import named_subgroups
from medi_monai.networks.text import CAPTION, CaptionSchema, DebiasedTextEncoder, TextDiffusionUNet, fit_subspace
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest
from medi_monai.utils.seeding import seed_from

__all__ = [
    "DebiasedPrompts",
    "NamedPrompts",
    "named_versions",
    "spread_subgroups",
    "subgroup_schema",
    "with_text_encoder",
]

#: step of the sequence that spreads subgroups over the images of a prompt (golden ratio)
STEP = (5**0.5 - 1) / 2
#: largest number of words, replaced or added, in which a caption may differ from a prompt to be its named version: as
#: "an old patient" and "a woman"
MOST_WORDS = 4

#: for each neutral prompt, the prompt that names each subgroup, in the order of the target's
Named = Mapping[str, Sequence[str]]


def spread_subgroups(prompts: Sequence[str], numbers: Sequence[int], shares: Sequence[float], seed: int) -> np.ndarray:
    """Assign subgroups to images so that, within each prompt, every run of consecutive numbers has the target's shares.

    An image's subgroup depends only on the seed, its prompt and its number. The numbers of a prompt are mapped to the
    points of a Kronecker sequence with the golden ratio, which starts at random: the share of a subgroup among n
    consecutive images differs from its target by about log(n) / n, while independent draws differ by 1 / sqrt(n).

    Args:
        prompts: ``(N,)`` prompt of each image.
        numbers: ``(N,)`` number of each image within its prompt.
        shares: target shares, which sum to 1.
        seed: random seed.

    Returns:
        ``(N,)`` index of each image's subgroup.
    """
    starts = {
        prompt: np.random.default_rng(seed_from("subgroups of a prompt", seed, prompt)).random()
        for prompt in dict.fromkeys(prompts)
    }
    points = np.array([starts[prompt] for prompt in prompts]) + np.asarray(numbers, float) * STEP
    edges = np.cumsum(np.asarray(shares, float))
    groups = np.searchsorted(edges / edges[-1], points % 1, side="right")
    return np.minimum(groups, np.flatnonzero(np.asarray(shares) > 0)[-1])


def named_versions(
    prompts: Sequence[str],
    captions: pd.Series,
    words: Mapping[str, Mapping[str, Sequence[str]]],
    target: SubgroupTarget,
) -> dict[str, list[str]]:
    """Return, for each neutral prompt, a version that names each subgroup.

    It is the training caption that names the subgroup and differs from the prompt in the fewest words; of several,
    the most frequent. If all differ in more than :data:`MOST_WORDS` words, the words of the subgroup are added to the
    prompt.

    Args:
        prompts: neutral prompts.
        captions: captions of the training.
        words: words that name each value of each attribute, from :func:`medi_monai.alignment.prompts.caption_words`.
        target: target shares.

    Raises:
        InputError: for a subgroup of the target whose values have no words.
    """
    counts = captions.value_counts()
    counts = counts.sort_index()
    known = pd.DataFrame({name: named_subgroups(pd.Series(counts.index), of_value) for name, of_value in words.items()})
    versions: dict[str, list[str]] = {prompt: [] for prompt in dict.fromkeys(prompts)}
    for group in target.groups:
        own = dict(zip(target.attributes, group))
        for name, value in own.items():
            if value not in words[name]:
                raise unknown_value(f"value of {name!r} in the target", value, words[name], "Captions name only these.")
        named = counts[(known[list(own)] == list(own.values())).all(axis=1).to_numpy()]
        added = " ".join(words[name][value][0] for name, value in own.items())
        for prompt, of_prompt in versions.items():
            of_prompt.append(_nearest(prompt, named) or f"{prompt}, {added}")
    return versions


def _nearest(prompt: str, captions: pd.Series) -> str | None:
    own = _words(prompt)

    def difference(caption: str) -> int:
        other = _words(caption)
        return sum(((own - other) + (other - own)).values())

    ranked = sorted((difference(caption), -count, caption) for caption, count in captions.items())
    return ranked[0][2] if ranked and ranked[0][0] <= MOST_WORDS else None


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[\w-]+", text.casefold()))


class _SubgroupSchema(CaptionSchema):
    """Schema of captions that chooses a subgroup for each image; see :func:`spread_subgroups`.

    Args:
        schema: schema of the model.
        named: for each neutral prompt, a version that names each subgroup.
        target: target shares.
        seed: random seed of the choice.
    """

    kind: str

    def __init__(self, schema: CaptionSchema, named: Named, target: SubgroupTarget, seed: int) -> None:
        super().__init__(schema.text_encoder)
        # a prompt that is too long is refused before any image is drawn
        schema.text_encoder.tokenize([caption for of_prompt in named.values() for caption in of_prompt])
        self.named, self.target, self.seed = {prompt: list(of) for prompt, of in named.items()}, target, seed

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the codes and their states."""
        return json_digest(
            {
                "schema": super().digest,
                "kind": self.kind,
                "named": self.named,
                "target": self.target.to_dict(),
                "seed": self.seed,
            }
        )

    def subgroups(self, table: pd.DataFrame) -> np.ndarray:
        """Return the ``(N,)`` subgroups of images, by their ``caption``, a neutral prompt, and ``number``, or else 0.

        Raises:
            InputError: for a prompt without versions that name subgroups.
        """
        for prompt in table[CAPTION].unique():
            if prompt not in self.named:
                raise InputError(f"the prompt {prompt!r} is not one of those given: sample with all of them")
        return spread_subgroups(
            table[CAPTION].tolist(),
            table.get("number", pd.Series(0, table.index)).tolist(),
            self.target.probabilities,
            self.seed,
        )


class NamedPrompts(_SubgroupSchema):
    """Replaces neutral prompts by prompts that name a subgroup, at the target's shares."""

    kind = "named"

    def encode(self, table: Any, unseen: str = "error", absent: str = "error") -> torch.Tensor:
        """Return ``(N, max_length)`` token ids; the table has ``caption``, a neutral prompt, and ``number``."""
        groups = self.subgroups(table)
        captions = [self.named[prompt][group] for prompt, group in zip(table[CAPTION], groups.tolist())]
        return super().encode({CAPTION: captions}, unseen, absent)


class DebiasedPrompts(_SubgroupSchema):
    """Keeps neutral prompts, and moves their embeddings to a subgroup, at the target's shares.

    :attr:`text_encoder` is the :class:`medi_monai.networks.text.DebiasedTextEncoder` that the network has to use.
    """

    kind = "debiased"

    def __init__(self, schema: CaptionSchema, named: Named, target: SubgroupTarget, seed: int) -> None:
        super().__init__(schema, named, target, seed)
        encoder, num_groups = schema.text_encoder, len(target.groups)
        codes = encoder.tokenize([caption for of_prompt in self.named.values() for caption in of_prompt])
        groups = torch.arange(num_groups).repeat(len(self.named))
        states = encoder(codes).cpu()
        subspace = fit_subspace(states, encoder.mask(codes).sum(1).cpu() - 1, groups, num_groups)
        self.text_encoder = DebiasedTextEncoder(encoder, subspace)

    def encode(self, table: Any, unseen: str = "error", absent: str = "error") -> torch.Tensor:
        """Return ``(N, max_length + 1)`` token ids and the index of the subgroup."""
        codes = super().encode(table, unseen, absent)
        return torch.cat([codes, torch.from_numpy(self.subgroups(table))[:, None]], 1)


#: schemas by the choice of `subgroups`
SCHEMAS: dict[str, type[_SubgroupSchema]] = {schema.kind: schema for schema in (NamedPrompts, DebiasedPrompts)}


def subgroup_schema(
    subgroups: str,
    schema: CaptionSchema,
    prompts: Sequence[str],
    training: Callable[[], Cohort],
    templates: Any,
    attribute: str | None,
    target: Any,
    target_table: str | None = None,
    seed: int = 0,
) -> CaptionSchema:
    """Return the schema with which neutral prompts are sampled.

    Args:
        subgroups: ``model``: the schema of the model, which chooses the subgroups; ``named``: :class:`NamedPrompts`;
            ``debiased``: :class:`DebiasedPrompts`.
        schema: schema of the model.
        prompts: neutral prompts.
        training: function that returns the training rows.
        templates: caption templates, only words, or None.
        attribute: sensitive attribute, or several as ``sex|age``.
        target: target shares, as for :func:`medi_monai.alignment.functional.make_target`.
        target_table: path of a reference table, for ``table``.
        seed: random seed.

    Raises:
        InputError: for an unknown choice, without an attribute or target, and as for :func:`named_versions`.
    """
    if subgroups not in SUBGROUP_CHOICES:
        raise unknown_value("choice of `subgroups`", subgroups, SUBGROUP_CHOICES)
    if subgroups == SUBGROUP_CHOICES[0]:
        return schema
    cohort, name = training(), "|".join(joint_attributes(attribute))
    shares = cohort_target(target, cohort, name, target_table)
    if shares is None:
        raise InputError(f"subgroups = {subgroups!r} needs target shares: give --target")
    versions = named_versions(prompts, cohort.table[CAPTION], caption_words(cohort, templates, name), shares)
    prompt, of_prompt = next(iter(versions.items()))
    print(f"subgroups of {prompt!r}, at the shares of the target: {', '.join(map(repr, of_prompt))}", flush=True)
    return SCHEMAS[subgroups](schema, versions, shares, seed)


def with_text_encoder(network: TextDiffusionUNet, schema: CaptionSchema) -> TextDiffusionUNet:
    """Return the network with the text encoder of the schema, which may be debiased."""
    return network.use_text_encoder(schema.text_encoder) if isinstance(schema, DebiasedPrompts) else network
