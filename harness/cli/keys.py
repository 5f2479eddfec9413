"""key: the key that signs your images, and the keys that a catalog trusts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import SiteOption
from harness.image.keys import read_public_key, signing_key, trust, trusted_keys
from harness.project import Project
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("key")(key)


def key(
    public: Annotated[
        bool, typer.Option("--public", help="Print your public key, for the keeper of a catalog, and nothing else.")
    ] = False,
    trusted: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="Make the catalog trust this public key.")
    ] = None,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Show the key that signs your images, made on first use, and the keys that the catalog trusts.

    HARNESS_SIGNING_KEY names another private key: an ed25519 PEM file without passphrase, mode 600.

    Examples: harness key; harness key --public > alice.pem; harness key --trust alice.pem
    """
    if public:
        typer.echo(signing_key(os.environ).public_pem, nl=False)
        return
    catalog = project_catalog(Project.find(), site)
    if trusted is not None:
        given = read_public_key(trusted)
        typer.echo(trust(given.path.read_text(encoding="ascii"), catalog.keys, str(trusted)).path)
        return
    mine = signing_key(os.environ)
    typer.echo(f"yours    {mine.fingerprint}  {mine.path}")
    for known in trusted_keys(catalog.keys):
        typer.echo(f"trusted  {known.fingerprint}  {known.path}")
