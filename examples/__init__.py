"""Modules of one's own, to learn from and to copy. docs/modules.md goes through them."""
