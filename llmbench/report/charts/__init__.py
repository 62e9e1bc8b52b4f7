"""Static charts: functions from numbers to SVG."""
