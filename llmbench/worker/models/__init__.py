"""Reference architectures, a file each, readable in one sitting."""
