"""Training of the networks."""

from istd.utils.process import set_up_command

set_up_command(__name__)
