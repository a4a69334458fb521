"""`python -m runtime`: the same as `muniment`."""

from runtime.cli import main

main()
