"""INT8 by static scales: Q/DQ pairs, and what each runtime needs around them."""
