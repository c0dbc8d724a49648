"""The HTML report of an evaluated dataset."""
