"""The kinds of adapters: each says which tensors it has, what they fit, and what they become; one module each."""
