"""Denoising stage: noise and Gibbs ringing, run by run; one module per engine."""
