"""Images and videos as input, annotated images and videos as output."""
