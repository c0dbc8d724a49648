"""Commands that run networks over datasets, images and videos, and measure the results."""

from istd.utils.bare_names import share_with_istd
from istd.utils.process import set_up_command

set_up_command(__name__)
share_with_istd(__name__)
