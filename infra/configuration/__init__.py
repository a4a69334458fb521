"""Configuration: what is stored of it, what each process runs with, and what it has said about that."""
