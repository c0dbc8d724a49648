"""Metrics of infrared small-target detection."""
