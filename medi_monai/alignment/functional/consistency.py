"""Consistency losses, which keep tuned images close to those of the untuned model for the same noise and prompt."""

from __future__ import annotations

import torch
from torch.nn import functional

from medi_monai.alignment.functional.transport import apportion
from medi_monai.utils.errors import InputError

__all__ = ["consistency_loss", "consistency_weights", "form_and_color_loss", "images_to_change"]

#: pixel differences (images in [-1, 1]) well below this contribute quadratically
SMOOTH = 0.02
#: gradient energy per pixel below which structure is treated as noise
STRUCTURE_FLOOR = 1e-4


def consistency_loss(
    features: torch.Tensor, reference_features: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``mean(w · (1 - cosine))`` of an encoder's features (CLIP consistency of arXiv 2406.14847).

    Args:
        features: ``(N, D)`` features of the tuned model's images.
        reference_features: ``(N, D)`` features of the untuned model's images for the same noise and prompt; receives
            no gradient.
        weights: ``(N,)`` weights from :func:`consistency_weights`; by default 1.

    Returns:
        A scalar in [0, 2 · max(w)].
    """
    _check("features", features, reference_features)
    return _weighted(1 - functional.cosine_similarity(features, reference_features.detach(), dim=1), weights)


def form_and_color_loss(
    images: torch.Tensor, reference_images: torch.Tensor, weights: torch.Tensor | None = None, levels: int = 3
) -> torch.Tensor:
    """Return a pixel distance in color and form, for changes that an encoder or a gray-level term overlooks.

    Color: the absolute difference of the low-pass images (means of 4 x 4 pixels), smoothed near zero. Form: at each of
    ``levels`` successively halved sizes and for every channel, with the gradient images ``g`` and ``g'``,
    ``|g - g'|² / (|g|² + |g'|²)``, which is 0 for equal, 1 for unrelated and 2 for inverted structure. The result is
    the sum of the two means. This term is our own.

    Args:
        images: ``(N, C, H, W)`` images of the tuned model in [-1, 1].
        reference_images: ``(N, C, H, W)`` images of the untuned model; receives no gradient.
        weights: ``(N,)`` weights; by default 1.
        levels: number of sizes at which structure is compared; fewer for images that are too small.

    Returns:
        A scalar, zero for equal images.
    """
    _check("images", images, reference_images)
    reference = reference_images.detach()
    difference = functional.avg_pool2d(images - reference, min(4, *images.shape[2:]))
    color = ((difference.square() + SMOOTH**2).sqrt() - SMOOTH).mean((1, 2, 3))
    form = torch.zeros_like(color)
    for level in range(levels):
        if level > 0:
            images, reference = (functional.avg_pool2d(pixels, 2) for pixels in (images, reference))
        form = form + _structure_distance(images, reference) / levels
        if min(images.shape[2:]) < 4:
            break
    return _weighted(color + form, weights)


def images_to_change(
    reference_probabilities: torch.Tensor, target: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return the smallest set of images that have to change their subgroup for the batch to meet its target.

    These are the excess images of every subgroup with more images than its target share, and among its images those
    with the lowest classifier confidence.

    Args:
        reference_probabilities: ``(N, G)`` subgroup probabilities of the untuned model's images.
        target: ``(G,)`` target shares.
        generator: random generator on the CPU, as for :func:`medi_monai.alignment.functional.apportion`.

    Returns:
        ``(N,)`` boolean, on the device of the probabilities.
    """
    sure, groups = reference_probabilities.detach().max(1)
    wanted_counts = apportion(target.detach().cpu(), len(groups), generator)
    change = torch.zeros(len(groups), dtype=torch.bool, device=groups.device)
    for group, count in enumerate(wanted_counts.tolist()):
        members = (groups == group).nonzero()[:, 0]
        least_sure = sure[members].argsort(stable=True)
        change[members[least_sure[: max(0, len(members) - count)]]] = True
    return change


def consistency_weights(
    reference_probabilities: torch.Tensor,
    target: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    confident: torch.Tensor | None = None,
    keep_weight: float = 1.0,
    change_weight: float = 0.2,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return consistency weights: high for images that keep their subgroup, low for images that have to change it.

    Args:
        reference_probabilities: ``(N, G)`` probabilities that the guide predicts for the untuned model's images.
        target: ``(G,)`` target shares, from which :func:`images_to_change` selects the images if there are no labels.
        labels: ``(N,)`` pseudo-targets from :func:`transport_labels`; an image changes if its pseudo-target differs
            from its subgroup before tuning.
        confident: ``(N,)`` whether each pseudo-target is confident; an image without a confident one is allowed to
            change, since a high weight would pull it back from the decision boundary and away from the target.
        keep_weight: weight of an image that keeps its subgroup.
        change_weight: weight of an image that changes its subgroup.
        generator: random generator on the CPU, as for :func:`images_to_change`.

    Returns:
        ``(N,)`` weights, without gradient.

    Raises:
        InputError: with neither labels nor target, or for a negative weight.
    """
    if min(keep_weight, change_weight) < 0:
        raise InputError(f"keep_weight = {keep_weight} and change_weight = {change_weight} must be zero or more")
    if labels is not None:
        change = labels.to(reference_probabilities.device) != reference_probabilities.argmax(1)
        if confident is not None:
            change = change | ~confident.to(change.device)
    elif target is not None:
        change = images_to_change(reference_probabilities, target, generator)
    else:
        raise InputError("consistency weights need pseudo-targets or a target, and neither is given")
    weights = reference_probabilities.new_full(change.shape, keep_weight).detach()
    return weights.masked_fill(change, change_weight)


def _structure_distance(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return ``(N,)`` distances, averaged over channels so that a loss in one is not hidden by another."""
    difference, energy = images.new_zeros(1), images.new_zeros(1)
    for axis in (2, 3):
        gradient, reference_gradient = images.diff(dim=axis), reference.diff(dim=axis)
        difference = difference + (gradient - reference_gradient).square().mean((2, 3))
        energy = energy + (gradient.square() + reference_gradient.square()).mean((2, 3))
    return (difference / (energy + STRUCTURE_FLOOR)).mean(1)


def _weighted(distances: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if weights is None:
        return distances.mean()
    if weights.shape != distances.shape:
        raise InputError(f"weights {tuple(weights.shape)} do not match {len(distances)} images")
    return (distances * weights.to(distances).detach()).mean()


def _check(name: str, values: torch.Tensor, reference: torch.Tensor) -> None:
    if values.shape != reference.shape or not len(values):
        raise InputError(
            f"{name} {tuple(values.shape)} do not match those of the untuned model, {tuple(reference.shape)}"
        )
