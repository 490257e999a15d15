"""The passes, one family a file; trtkit.graph.registry lists them by name."""
