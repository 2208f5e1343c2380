"""One file, one experiment: each module here is self-contained and runs by itself."""
