"""The converters' small base models, for their matrix written again."""

from tests.converters.conftest import tiny_flux, tiny_sd, tiny_sdxl, write_arrays, write_zeros

__all__ = ["tiny_flux", "tiny_sd", "tiny_sdxl", "write_arrays", "write_zeros"]
