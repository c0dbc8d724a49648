"""Commands that run networks over datasets, images and videos, and measure the results."""

import istd.utils  # noqa: F401  (before torch)
