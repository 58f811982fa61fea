"""Networks that estimate the diffusion tensor."""
