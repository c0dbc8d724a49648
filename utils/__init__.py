"""Metrics, checkpoints, images, configuration and errors, which know nothing of the other packages."""
