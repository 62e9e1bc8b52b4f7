"""Which node of a cluster is slow, and which link: what to measure next, and what it means. Measures nothing itself."""

from llmbench.stats.scan.measure import Measure, Pair, Reading
from llmbench.stats.scan.search import Measurements, scan
from llmbench.stats.scan.verdicts import Judgement, judge

__all__ = ["Judgement", "Measure", "Measurements", "Pair", "Reading", "judge", "scan"]
