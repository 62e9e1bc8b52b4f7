"""llmbench: does this machine train, how fast and how right, and did it get worse?"""

__version__ = "0.1.0"
