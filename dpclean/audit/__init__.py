"""Real attacks planted in a copy of a data set, and what is left of them behind each defence."""
