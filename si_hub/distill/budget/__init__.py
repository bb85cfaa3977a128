"""Bytes spent where they remove most of the error."""
