"""What a project needs to let its own CI ask whether it got worse: templates, and what fills them in."""
