"""Training of the networks."""

from istd.utils.bare_names import share_with_istd
from istd.utils.process import set_up_command

set_up_command(__name__)
share_with_istd(__name__)
