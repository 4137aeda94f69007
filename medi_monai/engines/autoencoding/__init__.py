"""Train autoencoders, whose latents a diffusion model can represent."""
