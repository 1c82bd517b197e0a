"""Versions: of the code, which tags the image, and of what is registered from it with one set of settings."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.runtime.pod_env import forwarded_env
from rakuten_tasks.runtime.pod_settings import POD_VARIABLES, PROFILE
from rakuten_tasks.runtime.schedules import PLAN_VARIABLES
from rakuten_tasks.storage.local_files import hash_json

ROOT = Path(__file__).parents[2]


def flyte_version(tag: str, profile: str, image: str) -> str:
    """Return the version to register under: the image's tag, the profile, and a hash of all that templates hold.

    Flyte takes each version once, with one content, so every setting that a task or a launch plan reads is part of it.
    image: with its tag.
    """
    content = {
        "image": image,
        "variables": {**forwarded_env((*POD_VARIABLES, *PLAN_VARIABLES)), PROFILE: profile},
        "code": code_version(),  # with the versions of the libraries here, which are part of the cache's key
        "flytekit": version("flytekit"),
        # flytekit hands both to the pods of dynamic tasks: another checkout makes other templates
        "folder": str(ROOT),
        "repository": _repository(),
    }
    return f"{tag}-{profile}-{hash_json(content)[:8]}"


def _repository() -> str:
    """Return the address of the git remote as flytekit reads it: not in a worktree."""
    command = ["git", "config", "--file", str(ROOT / ".git/config"), "remote.origin.url"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def git_version() -> str:
    """Return the commit, with a hash of uncommitted changes if there are any.

    Raises click.ClickException outside of a git checkout.
    """

    def git(*command: str, stdin: str = "") -> str:
        options: dict[str, Any] = {"capture_output": True, "check": True, "text": True, "errors": "backslashreplace"}
        return subprocess.run(["git", *command], cwd=ROOT, input=stdin, **options).stdout.strip()

    try:
        commit = git("describe", "--always", "--tags", "--abbrev=12")
        added = git("ls-files", "--others", "--exclude-standard")
        changes = git("diff", "HEAD", "--binary") + added + git("hash-object", "--stdin-paths", stdin=added)
        # replace characters that a git tag may have and an image's tag may not
        commit = re.sub(r"[^A-Za-z0-9_.-]", "-", commit)
        return f"{commit}-{git('hash-object', '--stdin', stdin=changes)[:8]}" if changes else commit
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(f"git has no version of {ROOT}: name the image's tag with TAG=") from error
