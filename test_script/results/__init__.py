"""Measured results, and the folders and files that hold them.

For a set of frames: `frame_set` (which frames), `shards` (the work and its counts, in parts), `run_folder` (the folder
of a run), `set_results` (metrics, tables, curves), `sequence_tracks`, and `coco_results` (detections in COCO's format).
For a stream, frame by frame: `stream_tracks` and `prediction_folder`. `result_files` writes masks, maps and tables.
"""
