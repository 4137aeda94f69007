"""Differentiable sampling: backpropagation of an image loss through the sampler, with the memory of one step.

Both methods draw exactly the images of :func:`medi_monai.diffusion.ddim` and return a :class:`Rollout`: losses are
computed on its ``images``, and ``rollout.backward(loss)`` adds to the gradients of the network's parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint as recomputed

from medi_monai.diffusion import (
    NoiseSchedule,
    check_objective,
    ddim_step,
    denoiser,
    image_coefficients,
    sampling_timesteps,
)
from medi_monai.utils.errors import InputError

__all__ = ["ROLLOUTS", "Rollout", "adjusted_direct", "check_rollout", "step_coefficients", "truncated"]

#: ``(x_t, timesteps) -> prediction``, with conditions, guidance and autocast already applied
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Rollout:
    """Sampled images, with backpropagation from the images to the parameters of the network.

    Args:
        images: ``(N, …)`` result of sampling: images, or latents for the caller to decode.
        send_back: function that takes the gradient of ``images`` and adds to the gradients of the parameters.
    """

    def __init__(self, images: torch.Tensor, send_back: Callable[[torch.Tensor], None]) -> None:
        #: a leaf of the graph: losses are computed on it, or on the decoded images
        self.images = images.detach().clone().requires_grad_()
        self._send_back: Callable[[torch.Tensor], None] | None = send_back

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate the loss to the images, and from there to the parameters; can be called only once.

        The loss may include terms that depend on the parameters in other ways (such as a denoising loss).
        """
        loss.backward()
        if self.images.grad is not None:
            self.send_back(self.images.grad)

    def send_back(self, gradient: torch.Tensor) -> None:
        """Backpropagate from the images to the parameters, for a loss over the images of several rollouts.

        Args:
            gradient: ``(N, …)`` gradient of the loss with respect to ``images``.

        Raises:
            InputError: on a second call, or for a gradient of the wrong shape.
        """
        if self._send_back is None:
            raise InputError("a rollout can be backpropagated only once: draw the images again")
        if gradient.shape != self.images.shape:
            raise InputError(f"a gradient of {tuple(gradient.shape)} does not fit images of {tuple(self.images.shape)}")
        send_back, self._send_back = self._send_back, None
        send_back(gradient)


def truncated(
    predict: Predict,
    noise: torch.Tensor,
    schedule: NoiseSchedule,
    objective: str,
    num_steps: int,
    last_steps: int | None = None,
    checkpoint: bool = True,
    clip: float | None = 1.0,
) -> Rollout:
    """Sample by DDIM with the exact gradient through only the last K steps (Clark et al. 2023, DRaFT-K).

    Args:
        predict: ``(x_t, timesteps) -> prediction``; evaluated again in :meth:`Rollout.backward`, so its network has to
            be in evaluation mode, or take its dropout from torch's generators.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        objective: prediction target of the network.
        num_steps: number of network evaluations, 1 to T.
        last_steps: K, from 1 to ``num_steps``; by default all.
        checkpoint: whether to store only latents and evaluate the network again in the backward pass, which limits
            activations to those of one step, at the cost of a second forward pass.
        clip: bound of the denoised image, [-clip, clip]; ``None`` for latents.
    """
    steps = _steps(schedule, num_steps, last_steps)
    first = num_steps - (num_steps if last_steps is None else last_steps)
    denoise = denoiser(predict, schedule, objective, clip)
    with torch.no_grad():
        sample = noise.detach()
        for now, later in steps[:first]:
            sample = ddim_step(denoise, sample, now, later, schedule)
    with torch.enable_grad():
        for now, later in steps[first:]:
            if checkpoint:
                sample = recomputed(ddim_step, denoise, sample, now, later, schedule, use_reentrant=False)
            else:
                sample = ddim_step(denoise, sample, now, later, schedule)
    if not sample.requires_grad:
        raise InputError(_NOTHING_TO_TUNE)
    return Rollout(sample, lambda gradient: sample.backward(gradient))


def adjusted_direct(
    predict: Predict,
    noise: torch.Tensor,
    schedule: NoiseSchedule,
    objective: str,
    num_steps: int,
    last_steps: int | None = None,
    clip: float | None = 1.0,
) -> Rollout:
    """Sample by DDIM with the adjusted direct gradient (Shen et al., arXiv 2311.07604, adjusted direct finetuning).

    The gradient through a long chain of steps explodes. Here the latents that enter the network are treated as
    constants, so the image is a linear function of the predictions, with the coefficients of :func:`step_coefficients`.
    These are replaced by their geometric mean, so that every step with a gradient has the same weight. The paper does
    so for epsilon prediction, with 1 instead of the mean; here it applies to any prediction target.

    Latents are stored, and the network is evaluated again step by step in the backward pass, which limits activations
    to those of one step.

    The clamp of the denoised image is the identity in the backward pass (straight-through), so clipped pixels have a
    gradient.

    Args:
        predict: ``(x_t, timesteps) -> prediction``, as in :func:`truncated`, but without dropout.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        objective: prediction target of the network, to which the coefficients apply.
        num_steps: number of network evaluations, 1 to T.
        last_steps: K, the number of last steps with a gradient; by default all.
        clip: bound of the denoised image, [-clip, clip]; ``None`` for latents.

    Raises:
        InputError: as for :func:`check_rollout`.
    """
    check_rollout("adjusted", objective)
    steps = _steps(schedule, num_steps, last_steps)
    count = num_steps if last_steps is None else last_steps
    coefficients = step_coefficients(schedule, objective, num_steps)[num_steps - count :]
    # for epsilon, an arithmetic mean would be dominated by the first coefficient, the noise-to-signal ratio at T
    common = coefficients.abs().log().mean().exp()
    weights = (common * coefficients.sign()).tolist()

    denoise = denoiser(predict, schedule, objective, clip)
    stored: list[tuple[torch.Tensor, int, float]] = []
    with torch.no_grad():
        sample = noise.detach()
        for index, (now, later) in enumerate(steps):
            if index >= num_steps - count:
                stored.append((sample, now, weights[index - num_steps + count]))
            sample = ddim_step(denoise, sample, now, later, schedule)

    def send_back(gradient: torch.Tensor) -> None:
        while stored:
            latent, now, weight = stored.pop()
            with torch.enable_grad():
                prediction = predict(latent, _timesteps(latent, now))
            if not prediction.requires_grad:
                raise InputError(_NOTHING_TO_TUNE)
            prediction.backward((weight * gradient).to(prediction))

    return Rollout(sample, send_back)


#: functions that draw a rollout, by their names in configs
ROLLOUTS: dict[str, Callable[..., Rollout]] = {"truncated": truncated, "adjusted": adjusted_direct}


def check_rollout(rollout: str, objective: str) -> None:
    """Check that a model can be tuned with a rollout.

    Args:
        rollout: one of :data:`ROLLOUTS`.
        objective: prediction target of the model.

    Raises:
        InputError: for ``adjusted`` with ``sample``: as the image is the last prediction, the others have no gradient.
    """
    if (rollout, objective) == ("adjusted", "sample"):
        raise InputError(
            "rollout = 'adjusted': with the objective 'sample', the image is the last prediction, so the others would "
            "have no gradient; use --rollout truncated"
        )


def step_coefficients(schedule: NoiseSchedule, objective: str, num_steps: int) -> torch.Tensor:
    """Return ``(num_steps,)`` float64 coefficients of each step's prediction in the image drawn by DDIM.

    Without a clamp, a step is linear in latent and prediction, ``x' = keep x + gain prediction``, and the coefficient
    of a prediction is its gain times the product of ``keep`` over all later steps. For epsilon (Song et al. 2021,
    eq. 13), this telescopes to ``sigma_{i+1} / alpha_{i+1} - sigma_i / alpha_i``. For v, with ``alpha = cos(phi)`` and
    ``sigma = sin(phi)``, a step is a rotation by ``phi_i - phi_{i+1}``: ``keep`` is its cosine, and ``gain`` is minus
    its sine. For flow, ``keep`` is 1, and ``gain`` is the change of sigma. All of these are negative.
    For sample, the image is the last prediction: its coefficient is 1, those of the others are 0.

    Args:
        schedule: noise schedule of the training.
        objective: prediction target of the network.
        num_steps: number of network evaluations, 1 to T.
    """
    check_objective(objective, schedule)
    steps = sampling_timesteps(num_steps, schedule)[:-1]
    alpha = torch.cat([schedule.alphas[steps], torch.ones(1, dtype=torch.float64)])
    sigma = torch.cat([schedule.sigmas[steps], torch.zeros(1, dtype=torch.float64)])
    (now, later), (noise_now, noise_later) = ((values[:-1], values[1:]) for values in (alpha, sigma))
    if objective == "epsilon":
        return noise_later / later - noise_now / now
    # x' = alpha' x_0 + sigma' (x - alpha x_0) / sigma with x_0 = a x + b prediction
    of_image = later - noise_later * now / noise_now
    of_noisy, of_prediction = image_coefficients(now, noise_now, objective)
    keep, gain = noise_later / noise_now + of_image * of_noisy, of_image * of_prediction
    kept_after = torch.cat([keep.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    return gain * kept_after


_NOTHING_TO_TUNE = "the network's prediction depends on no parameter that requires a gradient: nothing can be tuned"


def _timesteps(sample: torch.Tensor, now: int) -> torch.Tensor:
    return torch.full((len(sample),), now, device=sample.device)


def _steps(schedule: NoiseSchedule, num_steps: int, last_steps: int | None) -> list[tuple[int, int]]:
    steps = sampling_timesteps(num_steps, schedule).tolist()
    if last_steps is not None and not 1 <= last_steps <= num_steps:
        raise InputError(f"last_steps = {last_steps}: the gradient can pass through 1 to {num_steps} (num_steps) steps")
    return list(zip(steps[:-1], steps[1:]))
