"""Datasets found in any layout, checked, and served as clips."""
