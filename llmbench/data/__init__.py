"""Which text is trained on: the generated corpus or the user's, its tokenizer, and its token files."""
