"""A torch module -> a smaller one at a known accuracy: pruned, sparse, distilled, trained for its integer grids."""
