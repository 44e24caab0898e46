"""What latents mean, and latents as a vocabulary."""
