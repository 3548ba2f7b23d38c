"""The export itself: plans, windows, commits, seals. Nothing here knows Dagster."""
