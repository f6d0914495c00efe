"""The pages on which people judge, and on which researchers watch."""
