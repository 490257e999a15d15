"""Which layers cost accuracy, and which to keep in float for a budget."""
