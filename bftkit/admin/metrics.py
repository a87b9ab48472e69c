"""A member's numbers in Prometheus' text form, and in OpenMetrics for whoever asks for that.

What there is stands in `measures.py`. Everything is read when somebody asks, between two rounds of the member's loop,
into a registry that is made for this one answer: so several members of one process have nothing in common but what the
process itself uses up (``process_...``, which is the process's and not the member's), and a member that nobody asks
pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from bftkit.admin.facade import Facade
from bftkit.admin.measures import METRICS, Metric, Samples, Scrape
from bftkit.node.sync_times import SyncTimes

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class MemberCollector(Collector):
    """All of `METRICS`, of one member."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    def collect(self) -> Iterable[Family]:
        """As they are now."""
        scrape = Scrape.of(self._facade)
        return [_family(metric, metric.read(scrape)) for metric in METRICS]

    def describe(self) -> Iterable[Family]:
        """The same without values: nobody need be asked to know the names."""
        return [_family(metric, SyncTimes() if metric.kind == "histogram" else ()) for metric in METRICS]


def metrics_text(facade: Facade, accept: str = "") -> tuple[bytes, str]:
    """All metrics of this member now, and their content type; `accept` is what the caller's header of that name says.

    Only the form is chosen by it, of two that are fixed: nothing of the header is ever repeated.
    """
    registry = CollectorRegistry()
    registry.register(MemberCollector(facade))
    ProcessCollector(registry=registry)
    if _wants_openmetrics(accept):
        encode, _ = choose_encoder("application/openmetrics-text")
        return encode(registry), OPENMETRICS_TYPE
    return generate_latest(registry), TEXT_TYPE


def _wants_openmetrics(accept: str) -> bool:
    """Whether the first form in the header that we have is OpenMetrics: Prometheus names first what it likes best."""
    for one in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind in ("text/plain", "text/*", "*/*"):
            return False
        if kind == "application/openmetrics-text":
            version = next((text[8:] for text in parameters if text.startswith("version=")), "1.0.0")
            if version.startswith("1."):
                return True
    return False


def _family(metric: Metric, found: Samples | SyncTimes) -> Family:
    if isinstance(found, SyncTimes):
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels, unit=metric.unit)
        histogram.add_metric((), found.cumulative(), found.total)
        return histogram
    if metric.kind == "info":
        info = InfoMetricFamily(metric.name, metric.text)
        for values, _ in found:
            info.add_metric((), dict(zip(metric.labels, values, strict=True)))
        return info
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.text, labels=metric.labels, unit=metric.unit)
    for values, value in found:
        family.add_metric(values, float(value))
    return family
