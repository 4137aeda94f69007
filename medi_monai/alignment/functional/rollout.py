"""Sampling that a loss on images can be sent back through, at the memory of one step.

Either kind draws exactly what :func:`medi_monai.diffusion.ddim` draws, and gives a :class:`Rollout`: losses are
computed on its ``images``, and ``rollout.backward(loss)`` adds to the gradients of the network's parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint as recomputed

from medi_monai.diffusion import NoiseSchedule, denoiser, sampling_timesteps
from medi_monai.utils.errors import InputError

__all__ = ["ROLLOUTS", "Rollout", "adjusted_direct", "step_coefficients", "truncated"]

#: ``(x_t, timesteps) -> prediction``, conditions, guidance and autocast bound
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Rollout:
    """Images that were drawn, and the way back from them to the parameters.

    Args:
        images: ``(N, …)`` the end of sampling: images, or latents that the caller decodes.
        send_back: takes the gradient of ``images`` and adds to the gradients of the parameters.
    """

    def __init__(self, images: torch.Tensor, send_back: Callable[[torch.Tensor], None]) -> None:
        #: a leaf of the graph: losses are computed on it, or on its decoding
        self.images = images.detach().clone().requires_grad_()
        self._send_back: Callable[[torch.Tensor], None] | None = send_back

    def backward(self, loss: torch.Tensor) -> None:
        """``loss.backward()``, and from the images on to the parameters; once.

        Terms that reach the parameters by another way (a denoising loss) may be part of the loss.
        """
        loss.backward()
        if self.images.grad is not None:
            self.send_back(self.images.grad)

    def send_back(self, gradient: torch.Tensor) -> None:
        """The second half of :meth:`backward`, for a loss over the images of several rollouts.

        Args:
            gradient: ``(N, …)`` of the loss with respect to ``images``.

        Raises:
            InputError: the second time, or for a gradient of another shape.
        """
        if self._send_back is None:
            raise InputError("a rollout goes backward once: draw the images again")
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
    """The true gradient through the last K steps of DDIM, none through those before (Clark et al. 2023, DRaFT-K).

    Args:
        predict: ``(x_t, timesteps) -> prediction``; called again in :meth:`Rollout.backward`, so it has to be in
            evaluation mode or draw its dropout from torch's generators.
        noise: ``(N, …)`` standard normal noise.
        schedule: the one of the training.
        objective: what the network predicts.
        num_steps: network evaluations, 1 to T.
        last_steps: K, 1 to ``num_steps``; left out, all.
        checkpoint: keep the latents alone and evaluate the network again on the way back: the activations are those of
            one step, at half as much work again.
        clip: the denoised image lies in [-clip, clip]; ``None`` for latents.
    """
    steps = _steps(schedule, num_steps, last_steps)
    first = num_steps - (num_steps if last_steps is None else last_steps)
    denoise = denoiser(predict, schedule, objective, clip)
    with torch.no_grad():
        sample = noise.detach()
        for now, later in steps[:first]:
            sample = _ddim_step(denoise, sample, now, later, schedule)
    with torch.enable_grad():
        for now, later in steps[first:]:
            if checkpoint:
                sample = recomputed(_ddim_step, denoise, sample, now, later, schedule, use_reentrant=False)
            else:
                sample = _ddim_step(denoise, sample, now, later, schedule)
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
    """The adjusted direct gradient (Shen et al., arXiv 2311.07604, adjusted direct finetuning).

    The gradient through a long chain of steps explodes. Here latents count as constants where they enter the network,
    so that the image is a linear function of the predictions with the coefficients of :func:`step_coefficients`, and
    those are replaced by numbers of one size, their geometric mean: every step that has a gradient counts alike. The
    paper does so for predictions of epsilon and makes the size 1; here it is for whatever the network predicts.

    Latents are stored, and the network is evaluated again step by step on the way back: activations are those of one
    step.

    The clamp of the denoised image counts as the identity on the way back (straight through): a clipped pixel pulls.

    Args:
        predict: as in :func:`truncated`, but without dropout.
        noise: ``(N, …)`` standard normal noise.
        schedule: the one of the training.
        objective: what the network predicts; the coefficients are those of this prediction.
        num_steps: network evaluations, 1 to T.
        last_steps: K, the steps that have a gradient; left out, all.
        clip: the denoised image lies in [-clip, clip]; ``None`` for latents.
    """
    steps = _steps(schedule, num_steps, last_steps)
    count = num_steps if last_steps is None else last_steps
    coefficients = step_coefficients(schedule, objective, num_steps)[num_steps - count :]
    # an arithmetic mean of epsilon's is decided by the first, the noise-to-signal ratio at T
    common = coefficients.abs().log().mean().exp()
    weights = (common * coefficients.sign()).tolist()

    denoise = denoiser(predict, schedule, objective, clip)
    stored: list[tuple[torch.Tensor, int, float]] = []
    with torch.no_grad():
        sample = noise.detach()
        for index, (now, later) in enumerate(steps):
            if index >= num_steps - count:
                stored.append((sample, now, weights[index - num_steps + count]))
            sample = _ddim_step(denoise, sample, now, later, schedule)

    def send_back(gradient: torch.Tensor) -> None:
        while stored:
            latent, now, weight = stored.pop()
            with torch.enable_grad():
                prediction = predict(latent, _timesteps(latent, now))
            if not prediction.requires_grad:
                raise InputError(_NOTHING_TO_TUNE)
            prediction.backward((weight * gradient).to(prediction))

    return Rollout(sample, send_back)


#: by the name that configs use
ROLLOUTS: dict[str, Callable[..., Rollout]] = {"truncated": truncated, "adjusted": adjusted_direct}


def step_coefficients(schedule: NoiseSchedule, objective: str, num_steps: int) -> torch.Tensor:
    """``(num_steps,)`` float64: how the image of DDIM depends on each step's prediction, the predictions being given.

    Without a clamp a step is linear in latent and prediction, ``x' = keep x + gain prediction``, and the coefficient of
    a prediction is its gain times what all later steps keep. For epsilon (Song et al. 2021, eq. 13) it telescopes to
    ``sigma_{i+1} / alpha_{i+1} - sigma_i / alpha_i``. For v, with ``alpha = cos(phi), sigma = sin(phi)``, a step is a
    turn by ``phi_i - phi_{i+1}``: it keeps its cosine and gains minus its sine. All are negative.
    """
    _check_objective(schedule, objective)
    steps = sampling_timesteps(num_steps, schedule.num_timesteps)[:-1]
    alpha_bar = torch.cat([schedule.alphas_cumprod[steps], torch.ones(1, dtype=torch.float64)])
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    (now, later), (noise_now, noise_later) = ((values[:-1], values[1:]) for values in (alpha, sigma))
    if objective == "epsilon":
        return noise_later / later - noise_now / now
    keep, gain = later * now + noise_later * noise_now, noise_later * now - later * noise_now
    kept_after = torch.cat([keep.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    return gain * kept_after


_NOTHING_TO_TUNE = "the network's prediction depends on no parameter that requires a gradient: nothing can be tuned"


def _ddim_step(denoise: Predict, sample: torch.Tensor, now: int, later: int, schedule: NoiseSchedule) -> torch.Tensor:
    """One step of :func:`medi_monai.diffusion.ddim`, with a gradient."""
    image = denoise(sample, _timesteps(sample, now))
    alpha, sigma = schedule.coefficients(torch.tensor([now]), sample)
    alpha_later, sigma_later = schedule.coefficients(torch.tensor([later]), sample)
    return alpha_later * image + sigma_later * ((sample - alpha * image) / sigma)


def _timesteps(sample: torch.Tensor, now: int) -> torch.Tensor:
    return torch.full((len(sample),), now, device=sample.device)


def _steps(schedule: NoiseSchedule, num_steps: int, last_steps: int | None) -> list[tuple[int, int]]:
    steps = sampling_timesteps(num_steps, schedule.num_timesteps).tolist()
    if last_steps is not None and not 1 <= last_steps <= num_steps:
        raise InputError(f"last_steps = {last_steps}: the gradient can pass through 1 to {num_steps} (num_steps) steps")
    return list(zip(steps[:-1], steps[1:]))


def _check_objective(schedule: NoiseSchedule, objective: str) -> None:
    denoiser(lambda noisy, timesteps: noisy, schedule, objective)
