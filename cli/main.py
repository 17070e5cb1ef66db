"""``fbind``: a click group whose commands are named by string and imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from typing import NoReturn

import click

from ..manifests.errors import FbindError, MissingExtraError, ResourceError

COMMANDS = {
    "make-shapes": (
        "fbind.pipeline.commands.datasets:make_shapes",
        "pipeline",
        "Write a synthetic dataset in VOC's layout.",
    ),
    "fetch-voc": (
        "fbind.pipeline.commands.datasets:fetch_voc",
        "all",
        "Download PASCAL VOC 2012 and, with --sbd, SBD.",
    ),
    "build-clusters": (
        "fbind.pipeline.commands.clusters:build_clusters",
        "pipeline",
        "Group a dataset's images into category clusters.",
    ),
    "compare-recipes": (
        "fbind.pipeline.commands.comparison:compare_recipes",
        "pipeline",
        "Show which categories meet under which strategy.",
    ),
    "materialize-blends": (
        "fbind.pipeline.commands.materialize:materialize_blends",
        "pipeline",
        "Write every blend, δ and both label maps to a store.",
    ),
    "preview": ("fbind.pipeline.commands.preview:preview", "pipeline", "Draw samples of a store as a contact sheet."),
    "inspect": (
        "fbind.pipeline.commands.inspection:inspect",
        "pipeline",
        "Say what a store holds and how it was made.",
    ),
    "verify": ("fbind.pipeline.commands.inspection:verify", "pipeline", "Check every byte of a store."),
    "repair": ("fbind.pipeline.commands.repair:repair", "pipeline", "Make again what is broken in a store."),
    "train": ("fbind.trainer.commands:train", "trainer", "Train a network from the shards of a store."),
    "evaluate": ("fbind.trainer.commands:evaluate", "trainer", "Score a checkpoint at full resolution."),
    "compare": ("fbind.trainer.commands:compare", "trainer", "Put the scores of several runs in one table."),
}
"""Command name: (module:function, the extra that it needs, short help)."""

EXTRA_OF = {
    "cv2": "pipeline", "dask": "pipeline", "distributed": "pipeline", "psutil": "pipeline", "scipy": "pipeline",
    "torch": "trainer", "torchvision": "trainer", "torchmetrics": "trainer", "tensorboard": "trainer",
}  # fmt: skip
"""Which extra brings a top-level module; a module that both bring (PIL, matplotlib) is the command's own extra's."""


class LazyGroup(click.Group):
    """A group that knows names and short helps, and imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the named command.

        Raises :class:`MissingExtraError` when a library of its extra is not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        target, extra, _ = COMMANDS[cmd_name]
        module, _, function = target.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            if missing := missing_extra(error, cmd_name, extra):
                raise missing from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, _, short) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for a name that isn't one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near and not isinstance(error, click.NoSuchOption):
                ctx.fail(f"no command {args[0]!r}; did you mean {near[0]!r}?")
            raise


def missing_extra(error: ModuleNotFoundError, command: str, extra: str) -> MissingExtraError | None:
    """The error that names the extra which brings a missing module; ``None`` for one of fbind's own (a bug)."""
    module = (error.name or "").partition(".")[0]
    if module == "fbind" or not module:
        return None
    needed = extra if extra == "all" else EXTRA_OF.get(module, extra)
    return MissingExtraError(f"`fbind {command}` needs {module}, which is not installed: pip install 'fbind[{needed}]'")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("fbind"), prog_name="fbind")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Blend images of different categories, and train networks that label both.

    The usual order: build-clusters, materialize-blends, preview, train, evaluate.
    """
    _ = debug  # read again by main(), which sees errors after click has unwound


def main() -> None:
    """Run the command line; print one line for an error a user can cause, and exit with its code."""
    debug = "--debug" in sys.argv
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    try:
        code = cli.main(prog_name="fbind", standalone_mode=False)
    except FbindError as error:
        if debug:
            raise
        stop(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        # A library that a command imports only when it runs.
        missing = missing_extra(error, command, COMMANDS[command][1]) if command in COMMANDS else None
        if debug or missing is None:
            raise
        stop(str(missing), missing.exit_code)
    except click.Abort:
        stop("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # What no command foresaw, such as a folder on the way that may not be entered.
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        stop(f"{where}{error.strerror or error}", ResourceError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def stop(message: str, code: int) -> NoReturn:
    """Print the one line that says what is wrong, and exit."""
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(message, err=True)
    sys.exit(code)
