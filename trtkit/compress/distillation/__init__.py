"""A small module taught by a large one."""
