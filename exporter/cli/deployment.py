"""The command that writes the files which run the exporter as a service.

Only Click is imported here, as in `cli`.
"""

import click

from exporter.cli import streams
from exporter.cli.support import FILE, Command
from exporter.errors import ConfigurationError, cannot_write

KINDS = ("systemd", "launchd", "kubernetes")
"""The directories of deploy/ that the command can write."""


@click.command(cls=Command)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("directory", type=FILE, required=False)
@click.option("--replace", is_flag=True, help="Replace files that are there and differ.")
def deploy(kind: str, directory: str | None, replace: bool) -> None:
    """Write the service files of this version into DIRECTORY; ./KIND if it is left out.

    It writes the files and installs nothing: docs/systemd.md, docs/macos.md and docs/containers.md
    say where they belong. If a file is there already and differs, nothing is written, unless
    --replace is given. Needs no configuration.

    \b
    Example:
      kalshi-exporter deploy systemd
      kalshi-exporter deploy kubernetes /tmp/manifests --replace
    """
    from pathlib import Path

    from exporter.resources import shipped

    target = Path(kind if directory is None else directory)
    contents = {
        target / source.name: source.read_bytes()
        for source in sorted(shipped("deploy").joinpath(kind).iterdir())
    }
    try:
        present = {path: path.read_bytes() for path in contents if path.exists()}
        different = [path for path, content in present.items() if content != contents[path]]
        if different and not replace:
            raise ConfigurationError(
                *(
                    f"{path} is there already and differs from this version's:"
                    " compare the two, then give --replace or another directory"
                    for path in different
                )
            )
        target.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            if present.get(path) != content:
                path.write_bytes(content)
    except OSError as error:
        raise cannot_write(error.filename or target, error) from error
    for path, content in contents.items():
        streams.answer(f"{path}: {'unchanged' if present.get(path) == content else 'written'}")
