"""One loop that trains a few tensors, and the lessons it learns from."""
