"""A small believable company, filled in through the API, so that a newcomer has something to look at."""
