"""Ranges of the log for analysts: read in bulk, secrets left out, written to files that are whole or aren't there."""
