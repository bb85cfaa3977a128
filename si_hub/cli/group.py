"""The group of all commands: what goes wrong in any of them is one line and an exit code."""

from __future__ import annotations

import sys
from typing import Any

import click

from si_hub import __version__
from si_hub.cli.options import JSON
from si_hub.cli.printing import complain, say
from si_hub.errors import FileAccessError, SiHubError
from si_hub.foreign import json_text, make_safe
from si_hub.report.streams import escape_unprintable
from si_hub.words import at_command_line

INTERRUPTED = 130


class Commands(click.Group):
    """Turns our errors into one line and an exit code, whichever command raised them."""

    def main(self, *args: Any, **extra: Any) -> Any:
        escape_unprintable((sys.stdout, sys.stderr))
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with at_command_line():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SiHubError as error:
            return self.report(ctx, error)
        except click.ClickException as error:
            # It repeats what was typed, which may be a file's name that a shell put in place of a pattern.
            error.message = make_safe(error.message, 1000)  # type: ignore[misc]
            raise
        except BrokenPipeError:
            raise  # The reader of our output went away, as `head` does: click knows how to end quietly.
        except OSError as error:
            return self.report(ctx, FileAccessError(error.strerror or str(error), file=error.filename))
        except KeyboardInterrupt:
            complain("interrupted, nothing half-written is left behind")
            ctx.exit(INTERRUPTED)

    def report(self, ctx: click.Context, error: SiHubError) -> Any:
        if ctx.find_root().meta.get(JSON):
            say(json_text(error.as_dict()))
        complain(str(error))
        ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="si-hub")
def main() -> None:
    """StyleInject adapters for diffusers: convert, look, check, export, merge, distill, train, share.

    \b
    Examples:
      si-hub convert lora.safetensors             a community LoRA becomes lora.styleinject.safetensors
      si-hub convert lora.safetensors --base sdxl say which base model it is for
      si-hub inspect lora.safetensors             what a file holds, without loading it
      si-hub validate style.styleinject.safetensors
      si-hub export style.styleinject.safetensors --to kohya   and back to any program
      si-hub merge a.safetensors:0.7 b.safetensors -o c.safetensors
      si-hub distill base/ community.safetensors  a tuned model becomes a small adapter
      si-hub train base/ pictures/                pictures become an adapter
      si-hub push . user/style                    share an adapter on the Hub
      si-hub pull user/style                      get one, verified
      si-hub app style.safetensors                play with it in a browser

    In Python:

    \b
      import si_hub; si_hub.enable()
      pipe.load_styleinject_weights("user/style")  # or any LoRA, LoHa, LoKr, DoRA … file
    """
