"""Training: data sets of patches, losses and loops. Nothing here is needed to use a model."""
