"""One self-contained HTML page, and one JSON file, for a chain of runs."""
