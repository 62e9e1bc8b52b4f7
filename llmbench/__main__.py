"""``python -m llmbench`` is the ``llmbench`` command."""

from llmbench.start import main

if __name__ == "__main__":
    main()
