"""Bytes: safetensors headers read under limits, tensors as spans of files, whole files written atomically."""
