"""``python -m si_hub.cli``, and so ``accelerate launch -m si_hub.cli``."""

from si_hub.cli import main

if __name__ == "__main__":
    main(prog_name="si-hub")
