"""Metrics, checkpoints, images, configuration, and errors; nothing here imports the other packages."""

from istd.utils.bare_names import share_with_istd

share_with_istd(__name__)
