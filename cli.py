"""Run the command line from a checkout: ``python cli.py convert lora.safetensors``."""

from si_hub.cli import main

if __name__ == "__main__":
    main()
