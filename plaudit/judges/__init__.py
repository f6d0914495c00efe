"""Judges that are not people: simulated annotators and the guideline preference they share."""
