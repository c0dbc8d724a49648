"""Box annotations of other tools, made into datasets by `datasets.from_boxes`."""
