"""Configuration: asking, changing, watching, and which instances run what."""
