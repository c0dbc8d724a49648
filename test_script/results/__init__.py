"""Results of inference: detections, files, and the parts that a long run is resumed from."""
