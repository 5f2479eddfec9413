"""Bringing a model or a data set to a site's storage, by one process at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError, UserError
from harness.lease import lease
from harness.run.needs import is_got_by_hand, look
from harness.runtime.errors import ProgramError
from harness.runtime.hub.fetch import Hub, Watcher, fetch
from harness.runtime.hub.store import HUB, Store, of_folder, shared_folder
from harness.supply.plain import fetch_plain
from harness.supply.wishes import Wish

_LEASES = ".leases"


def obtain(wish: Wish, root: Path, hubs: Sequence[Hub], watcher: Watcher, *, again: bool = False) -> Path:
    """Bring it to its folder below ``root``, unless it is there; the folder.

    Args:
        again: read what is there once more, fetch what is damaged, and what is new on the hub.

    Raises:
        UserError: no program can fetch it, or something else lies in its place.
        HarnessError: no hub gave it, or it does not fit on the disk.
    """
    wanted, folder = wish.wanted, root / wish.wanted.folders[0]
    if not again and look(wish.kind, wanted, root) is None:
        watcher.say(f"{wish.key}: is here already")
        return next(root / name for name in wanted.folders if (root / name).is_dir())
    repository = wanted.repository()
    if is_got_by_hand(wanted):
        raise UserError(
            "no program can fetch it",
            where=wish.key,
            fix=f"get it by hand ({wanted.source}) and put {wanted.said_files} into {folder}",
        )
    if folder.exists() and not Store.is_ours(folder):
        raise UserError("is there and was not fetched by this command", where=str(folder), fix="move it away first")
    try:
        shared_folder(root, root)
        leases, name = root / HUB / _LEASES, wish.key.replace("/", "--")
        shared_folder(leases / name, root)  # before the lease makes it, closed to the group
        with lease(leases, name, watcher.say) as held:
            if again:
                _drop_damaged(root, folder, watcher)
            elif look(wish.kind, wanted, root) is None:
                watcher.say(f"{wish.key}: somebody else has fetched it meanwhile")
                return folder
            if repository is not None:
                fetch(hubs, repository, root, wanted.folders[0], watcher, may_publish=held.check)
            else:
                fetch_plain(wanted, root, watcher, may_publish=held.check)
    except ProgramError as error:
        raise HarnessError(str(error)) from error
    if (missing := look(wish.kind, wanted, root)) is not None:
        raise HarnessError(
            f"{missing.problem}: what was fetched lacks a file that tutorials use", where=wish.key, fix=wanted.source
        )
    return folder


def _drop_damaged(root: Path, folder: Path, watcher: Watcher) -> None:
    store = of_folder(root, folder)
    if store is None:
        return
    for wrong in store.verify(folder):
        watcher.say(f"{wrong.path}: {wrong.problem}; it is fetched again")
        if wrong.path.is_symlink():
            store.drop(wrong)
