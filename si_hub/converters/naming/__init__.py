"""What the names of a foreign file's tensors mean: suffixes, prefixes and modules, and how they are written again."""
