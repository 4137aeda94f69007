"""Noise schedules, objectives, guidance and solvers, as functions of tensors and callables, without networks."""

from medi_monai.diffusion.guidance import guided
from medi_monai.diffusion.objectives import OBJECTIVES, add_noise, denoiser, training_target
from medi_monai.diffusion.schedules import SCHEDULES, NoiseSchedule
from medi_monai.diffusion.solvers import SOLVERS, ddim, dpm_solver, sampling_timesteps

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "SOLVERS",
    "NoiseSchedule",
    "add_noise",
    "ddim",
    "denoiser",
    "dpm_solver",
    "guided",
    "sampling_timesteps",
    "training_target",
]
