"""What goes into a run: case files, importers, splits, checks and the analysts' verdicts."""
