"""Training and sampling: trainer, batch preparation, image generator, CLIP, and model folder."""
