"""``python -m si_hub`` is ``si-hub``."""

from __future__ import annotations

from si_hub.cli import main

if __name__ == "__main__":
    main(prog_name="si-hub")
