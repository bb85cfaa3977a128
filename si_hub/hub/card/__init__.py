"""The model card: a generated part, renewed within a text that is the user's own."""
