"""The diffusion process: schedule, reveal law, sampler."""
