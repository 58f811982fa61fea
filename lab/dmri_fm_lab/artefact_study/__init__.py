"""Study of artefact-removal pretraining: three tasks, after Weninger et al. 2022."""
