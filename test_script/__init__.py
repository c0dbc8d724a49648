"""Commands that run networks over datasets, images and videos, and measure the results."""

from istd.utils.process import set_up_command

set_up_command(__name__)
