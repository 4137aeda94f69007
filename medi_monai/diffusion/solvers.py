"""Samplers as plain functions with a common signature: denoiser, noise, schedule and number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from medi_monai.diffusion.objectives import Denoiser
from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import generator_from

__all__ = ["SOLVERS", "ddim", "ddim_step", "dpm_sde", "dpm_solver", "sampling_timesteps", "unipc"]

#: bound of half the log signal-to-noise ratio, between minus and plus which timesteps are spaced evenly: for images in
#: [-1, 1], no image is visible below -5, and noise is less than one gray level above 5
MAX_HALF_LOG_SNR = 5.0


def sampling_timesteps(num_steps: int, schedule: NoiseSchedule) -> torch.Tensor:
    """Return ``(num_steps + 1,)`` descending timesteps, from T-1 to -1, which stands for the clean image.

    After the first, they are spaced evenly in the log signal-to-noise ratio, from e^-10 (or that of T-1) to that of
    timestep 0 (or e^10). All components of an image then lose the same share of their variance, regardless of its size:
    stain and brightness, which vary most, as much as fine texture. Timesteps are distinct, so any number from 1 to T is
    valid.

    Args:
        num_steps: number of network evaluations, 1 to T.
        schedule: noise schedule of the training.

    Raises:
        InputError: for a number of steps out of range.
    """
    last = schedule.num_timesteps - 1
    if not 1 <= num_steps <= last + 1:
        raise InputError(f"num_steps = {num_steps}: the schedule allows 1 to {last + 1} sampling steps")
    ascending = schedule.half_log_snr.flip(0).contiguous()
    low, high = ascending[[0, -1]].clamp(-MAX_HALF_LOG_SNR, MAX_HALF_LOG_SNR).tolist()
    targets = torch.linspace(low, high, num_steps, dtype=torch.float64)
    above = torch.searchsorted(ascending, targets).clamp(1, last)
    nearest = above - (targets - ascending[above - 1] < ascending[above] - targets).long()
    steps, order = last - nearest, torch.arange(num_steps)
    steps[0] = last
    # if the spacing is finer than 1, consecutive timesteps are used, none twice
    steps = (steps + order).cummin(0).values - order
    steps = torch.maximum(steps, order.flip(0))
    return torch.cat([steps, torch.tensor([-1])])


@dataclass(frozen=True)
class _Path:
    """Timesteps of a sampler, with alpha, sigma and lambda (half the log signal-to-noise ratio) at each of them."""

    timesteps: list[int]
    alphas: list[float]
    sigmas: list[float]
    lambdas: list[float]

    @classmethod
    def of(cls, schedule: NoiseSchedule, num_steps: int) -> _Path:
        steps = sampling_timesteps(num_steps, schedule)[:-1]
        tables = (schedule.alphas, schedule.sigmas, schedule.half_log_snr)
        return cls(steps.tolist(), *(table[steps].tolist() for table in tables))


def _images(denoise: Denoiser, sample: torch.Tensor, timestep: int) -> torch.Tensor:
    return denoise(sample, torch.full((len(sample),), timestep, device=sample.device))


@torch.no_grad()
def ddim(denoise: Denoiser, noise: torch.Tensor, schedule: NoiseSchedule, num_steps: int) -> torch.Tensor:
    """Sample by deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0).

    With the schedule ``flow``, this is Euler's method on the velocity of rectified flow.

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        ``(N, …)`` images.
    """
    steps = sampling_timesteps(num_steps, schedule)
    sample = noise
    for now, later in zip(steps[:-1].tolist(), steps[1:].tolist()):
        sample = ddim_step(denoise, sample, now, later, schedule)
    return sample


def ddim_step(denoise: Denoiser, sample: torch.Tensor, now: int, later: int, schedule: NoiseSchedule) -> torch.Tensor:
    """Take one step of :func:`ddim`; gradients pass through it.

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        sample: ``(N, …)`` noisy images at timestep ``now``.
        now: timestep of ``sample``.
        later: timestep of the result, below ``now``; -1 for the clean image.
        schedule: noise schedule of the training.

    Returns:
        ``(N, …)`` images at timestep ``later``.
    """
    image = _images(denoise, sample, now)
    alpha, sigma = schedule.coefficients(torch.tensor([now]), sample)
    alpha_later, sigma_later = schedule.coefficients(torch.tensor([later]), sample)
    direction = (sample - alpha * image) / sigma
    return alpha_later * image + sigma_later * direction


@torch.no_grad()
def dpm_solver(denoise: Denoiser, noise: torch.Tensor, schedule: NoiseSchedule, num_steps: int) -> torch.Tensor:
    """Sample by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, with one network evaluation per step.

    With ``lambda = log(alpha / sigma)`` and ``h`` its increase over a step, the image is extrapolated from the last two
    predictions; the first and last steps are of first order. With 15 steps of the cosine schedule, samples of a
    Gaussian have a standard deviation that is 2 % too large, whether it is 0.1 or 8 (:func:`ddim`: 17 % too small).

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        ``(N, …)`` images.
    """

    def advance(path: _Path, index: int, sample: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        increase = path.lambdas[index + 1] - path.lambdas[index]
        ratio = path.sigmas[index + 1] / path.sigmas[index]
        return ratio * sample - path.alphas[index + 1] * math.expm1(-increase) * guess

    return _multistep(denoise, noise, schedule, num_steps, advance)


@torch.no_grad()
def dpm_sde(denoise: Denoiser, noise: torch.Tensor, schedule: NoiseSchedule, num_steps: int) -> torch.Tensor:
    """Sample by SDE-DPM-Solver++(2M) (Lu et al. 2022, eq. 18), which adds fresh noise in every step.

    The fresh noise of an image depends only on its initial noise.

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        ``(N, …)`` images.
    """
    generators = [generator_from("solver", row.flatten()[:16].tolist()) for row in noise.cpu()]

    def advance(path: _Path, index: int, sample: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        increase = path.lambdas[index + 1] - path.lambdas[index]
        fresh = torch.stack([torch.randn(noise.shape[1:], generator=generator) for generator in generators]).to(noise)
        kept = path.sigmas[index + 1] / path.sigmas[index] * math.exp(-increase)
        renewed = -math.expm1(-2 * increase)
        sample = kept * sample + path.alphas[index + 1] * renewed * guess
        return sample + path.sigmas[index + 1] * math.sqrt(renewed) * fresh

    return _multistep(denoise, noise, schedule, num_steps, advance)


def _multistep(
    denoise: Denoiser,
    noise: torch.Tensor,
    schedule: NoiseSchedule,
    num_steps: int,
    advance: Callable[[_Path, int, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Sample with one network evaluation per step.

    ``advance(path, index, sample, image)`` takes the step from ``index`` to the next, given the extrapolated image.
    """
    path = _Path.of(schedule, num_steps)
    sample, image, before = noise, noise, noise
    for index, step in enumerate(path.timesteps):
        image, before = _images(denoise, sample, step), image
        if index + 1 < num_steps:
            sample = advance(path, index, sample, _extrapolated(image, before, path, index))
    return image


def _extrapolated(image: torch.Tensor, before: torch.Tensor, path: _Path, index: int) -> torch.Tensor:
    """Extrapolate the last two predictions to the clean image halfway through the step that follows ``index``."""
    if index == 0:
        return image
    increase, earlier = (path.lambdas[n + 1] - path.lambdas[n] for n in (index, index - 1))
    return image + (image - before) * (increase / (2 * earlier))


@torch.no_grad()
def unipc(denoise: Denoiser, noise: torch.Tensor, schedule: NoiseSchedule, num_steps: int) -> torch.Tensor:
    """Sample by UniPC (Zhao et al. 2023, algorithms 1 and 2, of second order with B_2).

    Every prediction is used twice: to correct the step that led to it, and to predict the next.

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        noise: ``(N, …)`` standard normal noise.
        schedule: noise schedule of the training.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        ``(N, …)`` images.
    """
    path = _Path.of(schedule, num_steps)
    sample, image, slope = noise, _images(denoise, noise, path.timesteps[0]), torch.zeros_like(noise)
    for index, step in enumerate(path.timesteps[1:]):
        increase = path.lambdas[index + 1] - path.lambdas[index]
        gain = -path.alphas[index + 1] * math.expm1(-increase)
        linear = path.sigmas[index + 1] / path.sigmas[index] * sample + gain * image
        before, image = image, _images(denoise, linear + gain / 2 * slope, step)
        of_slope, of_change = _corrector(path, index)
        sample = linear + gain * (of_slope * slope + of_change * (image - before))
        if index + 2 < num_steps:
            # expected change of the prediction over the next step, at the same rate as over this one
            slope = (image - before) * ((path.lambdas[index + 2] - path.lambdas[index + 1]) / increase)
    return image


def _corrector(path: _Path, index: int) -> tuple[float, float]:
    """Return the weights of the slope and of the new change in UniPC's corrector (Zhao et al. 2023, theorem 3.1)."""
    if index == 0:
        return 0.0, 0.5
    h = path.lambdas[index + 1] - path.lambdas[index]
    earlier = (path.lambdas[index] - path.lambdas[index - 1]) / h
    change = math.expm1(-h)
    first = (change / -h - 1) / change
    second = 2 * ((change / -h - 1) / -h - 0.5) / change
    of_slope = (first - second) / (1 + earlier)
    return of_slope, first - of_slope


SOLVERS: dict[str, Callable[[Denoiser, torch.Tensor, NoiseSchedule, int], torch.Tensor]] = {
    "ddim": ddim,
    "dpm": dpm_solver,
    "dpm_sde": dpm_sde,
    "unipc": unipc,
}
