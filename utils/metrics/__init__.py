"""Metrics of infrared small-target detection: the standard protocol and the published ones, by name."""

from collections.abc import Iterable

from istd.utils.errors import InputError
from istd.utils.metrics.accumulator import MetricAccumulator
from istd.utils.metrics.protocols import PROTOCOLS, Protocol

__all__ = ["PROTOCOLS", "MetricAccumulator", "Protocol", "build_metric", "build_metrics"]


def build_metric(protocol_name: str) -> MetricAccumulator:
    """An empty accumulator of the protocol; raises `InputError` for a name that is not in `PROTOCOLS`."""
    if protocol_name not in PROTOCOLS:
        raise InputError(f"protocol {protocol_name!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    return MetricAccumulator(PROTOCOLS[protocol_name])


def build_metrics(protocol_names: Iterable[str]) -> dict[str, MetricAccumulator]:
    """An empty accumulator for each named protocol, by name; "all" stands for every protocol."""
    groups = (PROTOCOLS if name == "all" else [name] for name in protocol_names)
    return {name: build_metric(name) for names in groups for name in names}
