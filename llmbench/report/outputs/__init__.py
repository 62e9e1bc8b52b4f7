"""What other programs and places read: JUnit, Markdown, GitHub Actions."""
