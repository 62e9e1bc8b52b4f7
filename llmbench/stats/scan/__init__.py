"""Which node of a cluster is slow, and which link: what to measure next, and what it means. Measures nothing itself."""

from llmbench.stats.scan.search import Measure, Measurements, Pair, Reading, scan
from llmbench.stats.scan.verdicts import Judgement, judge

__all__ = ["Judgement", "Measure", "Measurements", "Pair", "Reading", "judge", "scan"]
