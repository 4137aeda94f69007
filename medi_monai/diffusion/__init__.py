"""Noise schedules, objectives, guidance and solvers, as functions of tensors and callables, without networks."""

from medi_monai.diffusion.guidance import Guidance, guided
from medi_monai.diffusion.objectives import (
    OBJECTIVES,
    add_noise,
    check_objective,
    denoiser,
    image_coefficients,
    training_target,
)
from medi_monai.diffusion.schedules import SCHEDULES, NoiseSchedule
from medi_monai.diffusion.solvers import SOLVERS, ddim, ddim_step, dpm_sde, dpm_solver, sampling_timesteps, unipc
from medi_monai.diffusion.timesteps import TIMESTEP_WEIGHTS, draw_timesteps, timestep_distribution

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "SOLVERS",
    "TIMESTEP_WEIGHTS",
    "Guidance",
    "NoiseSchedule",
    "add_noise",
    "check_objective",
    "ddim",
    "ddim_step",
    "denoiser",
    "dpm_sde",
    "dpm_solver",
    "draw_timesteps",
    "guided",
    "image_coefficients",
    "sampling_timesteps",
    "timestep_distribution",
    "training_target",
    "unipc",
]
