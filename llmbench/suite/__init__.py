"""From a suite file to a list of cases; what workloads and modes there are, and what they cost on paper."""
