"""Judges that are not people: simulated annotators and the taste they share."""
