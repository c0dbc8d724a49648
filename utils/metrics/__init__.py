"""Metrics of infrared small-target detection: the standard protocol and the published ones, by name."""

from utils.errors import InputError
from utils.metrics.accumulator import MetricAccumulator
from utils.metrics.protocols import PROTOCOLS, Protocol

__all__ = ["PROTOCOLS", "MetricAccumulator", "Protocol", "build_metric"]


def build_metric(protocol_name: str) -> MetricAccumulator:
    """An empty accumulator of the named protocol; raises `InputError` for a name that is not in `PROTOCOLS`."""
    if protocol_name not in PROTOCOLS:
        raise InputError(f"protocol {protocol_name!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    return MetricAccumulator(PROTOCOLS[protocol_name])
