"""Text embeddings without an attribute, placed at one of its values: a training-free way to choose a subgroup."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medi_monai.networks.text.encoder import FrozenTextEncoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, tensors_digest

__all__ = ["DebiasedTextEncoder", "SubgroupSubspace", "fit_subspace"]

#: singular values of the class means below this fraction of the largest are rounding
TOLERANCE = 1e-5
#: subgroup of a caption whose states are left as they are, such as the null caption
UNCHANGED = -1


@dataclass(frozen=True)
class SubgroupSubspace:
    """For each token position, counted from the end of the caption, the directions that reveal a subgroup.

    Args:
        basis: ``(P, D, K)`` orthonormal directions of each position; zero where there are fewer than K.
        coordinates: ``(P, G, K)`` coordinates of the mean state of each subgroup.
    """

    basis: torch.Tensor
    coordinates: torch.Tensor

    @property
    def digest(self) -> str:
        """SHA-256 of directions and coordinates."""
        return tensors_digest({"basis": self.basis, "coordinates": self.coordinates})

    def removed(self, states: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Project the directions out of states: no linear function of a state then covaries with the subgroup.

        Args:
            states: ``(N, L, D)`` token states.
            ends: ``(N,)`` position of the last token of each caption.
        """
        basis = self.basis.to(states)[_positions(states, ends)]
        return states - (basis @ (basis.mT @ states[..., None]))[..., 0]

    def placed(self, states: torch.Tensor, ends: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Replace the coordinates along the directions by the means of a subgroup.

        Args:
            states: ``(N, L, D)`` token states.
            ends: ``(N,)`` position of the last token of each caption.
            groups: ``(N,)`` index of the subgroup of each caption.
        """
        positions = _positions(states, ends)
        coordinates = self.coordinates.to(states)[positions, groups[:, None]]
        offsets = (self.basis.to(states)[positions] @ coordinates[..., None])[..., 0]
        return self.removed(states, ends) + offsets


def fit_subspace(states: torch.Tensor, ends: torch.Tensor, groups: torch.Tensor, num_groups: int) -> SubgroupSubspace:
    """Find the directions of token states that reveal the subgroup which a caption names.

    They span the differences between the mean states of the subgroups, separately at each position. Projecting them out
    makes states and subgroup uncorrelated, with the least change (fair PCA in closed form: Kleindessner et al., AISTATS
    2023, arXiv 2302.13319, without its reduction of dimensions; for prompts: Chuang et al., arXiv 2302.00070).
    Positions that not all subgroups have are left unchanged.

    Args:
        states: ``(N, L, D)`` token states of captions that name a subgroup. They should not differ otherwise: the same
            captions for every subgroup.
        ends: ``(N,)`` position of the last token of each caption.
        groups: ``(N,)`` index of the subgroup that each caption names.
        num_groups: number of subgroups, at least 2.

    Raises:
        InputError: for fewer than two subgroups, or a subgroup without captions.
    """
    if num_groups < 2:
        raise InputError("an attribute with one value has no direction in the embeddings: at least 2 are needed")
    lacking = sorted(set(range(num_groups)) - set(groups.tolist()))
    if lacking:
        raise InputError(f"no caption names the subgroups number {lacking}: their embeddings have no mean")
    _, length, dim = states.shape
    positions, values = _positions(states, ends).reshape(-1), states.double().reshape(-1, dim)
    owners = groups[:, None].expand(-1, length).reshape(-1)
    slot = positions * num_groups + owners
    sums = values.new_zeros((2 * length - 1) * num_groups, dim).index_add_(0, slot, values)
    counts = torch.bincount(slot, minlength=len(sums))
    means = (sums / counts.clamp(min=1)[:, None]).unflatten(0, (-1, num_groups))
    complete = (counts.unflatten(0, (-1, num_groups)) > 0).all(1)
    differences = (means - means.mean(1, keepdim=True)) * complete[:, None, None]
    _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
    used = sizes > TOLERANCE * sizes.max().clamp(min=1e-12)
    basis = (directions * used[..., None]).mT
    return SubgroupSubspace(basis.to(states), (means @ basis).to(states))


def _positions(states: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    # (N, L): 0 for the farthest before the last token of a caption, L - 1 for this token
    length = states.shape[1]
    return torch.arange(length, device=states.device) - ends.to(states.device)[:, None] + length - 1


class DebiasedTextEncoder(FrozenTextEncoder):
    """Frozen text encoder whose states are placed at a subgroup, which is the last of the codes of a caption.

    Args:
        encoder: text encoder of the model; weights and tokenizer are shared.
        subspace: directions and means of the subgroups.
    """

    def __init__(self, encoder: FrozenTextEncoder, subspace: SubgroupSubspace) -> None:
        captions = encoder.captions
        super().__init__(
            encoder.tower,
            captions.tokenizer,
            captions.max_length,
            captions.on_long,
            encoder.mask_padding,
            encoder.source,
            tuple(encoder.unused),
        )
        self.subspace = subspace

    @property
    def digest(self) -> str:
        """SHA-256 of the text encoder and of the directions."""
        return json_digest({"text_encoder": super().digest, "subspace": self.subspace.digest})

    def null_codes(self, count: int) -> torch.Tensor:
        """Return ``(count, max_length + 1)`` codes of the empty caption, which has no subgroup."""
        codes = super().null_codes(count)
        return torch.cat([codes, codes.new_full((count, 1), UNCHANGED)], 1)

    def mask(self, codes: torch.Tensor) -> torch.Tensor:
        """Return a ``(N, max_length)`` mask of ``(N, max_length + 1)`` codes; see :meth:`FrozenTextEncoder.mask`."""
        return super().mask(codes[:, :-1])

    @torch.no_grad()
    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the states of captions, placed at their subgroups.

        Args:
            codes: ``(N, max_length + 1)`` token ids, followed by the index of the subgroup; -1 leaves a caption
                unchanged.
        """
        states = super().forward(codes[:, :-1])
        groups = codes[:, -1].to(states.device)
        chosen = groups != UNCHANGED
        if not chosen.any():
            return states
        ends = self.mask(codes).sum(1).to(states.device) - 1
        placed = self.subspace.placed(states[chosen], ends[chosen], groups[chosen])
        return states.index_put((chosen.nonzero()[:, 0],), placed)
