"""Training of the networks."""

import istd.utils  # noqa: F401  (before torch)
