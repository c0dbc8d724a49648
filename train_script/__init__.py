"""Training of the networks."""

import utils  # noqa: F401  (before torch)
