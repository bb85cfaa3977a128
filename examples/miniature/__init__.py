"""The miniature: a small trained text-to-image world. See README.md in this folder."""
