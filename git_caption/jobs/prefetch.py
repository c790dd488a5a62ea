"""Fetching weights into the hub's cache, for runs on machines that cannot reach it."""

from __future__ import annotations

from git_caption.captioner.hub import fetch
from git_caption.errors import GitCaptionError, JobFailed
from git_caption.params.prefetch import PrefetchParams


def prefetch(params: PrefetchParams) -> None:
    """Fetch each id and print where it lies, or why it does not; one that fails does not keep the others back.

    Raises:
        JobFailed: some could not be fetched.
    """
    failed = []
    for name in params.ids:
        try:
            print(f"{name}: {fetch(name)}", flush=True)
        except GitCaptionError as error:
            failed.append(name)
            print(f"{name}: not fetched: {error}", flush=True)
    if failed:
        raise JobFailed(f"{len(failed)} of {len(params.ids)} ids could not be fetched: {', '.join(failed)}")
