"""What an unfinished output is made from, noted beside it, so that parts of different runs never mix."""

import json
from pathlib import Path
from typing import Any

from prudent.errors import PrudentError
from prudent.models._saving import atomic_file

__all__ = ["manifest_changes", "read_manifest", "write_manifest"]


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, whole or not at all.

    Args:
        path: file in an existing folder.
        manifest: what JSON can hold.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file.

    Raises:
        PrudentError: the file is damaged.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PrudentError(f"{path} is damaged ({error}); remove {path.parent} and start again") from error
    return manifest


def manifest_changes(path: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the entries that the manifest in a file has otherwise, or not at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "manifest.json"
        >>> write_manifest(path, {"seed": 0, "data": "a"})
        >>> manifest_changes(path, {"seed": 1, "data": "a"})
        ['seed']
    """
    found = read_manifest(path)
    # Compared as JSON, in which the file holds it.
    wanted = json.loads(json.dumps(manifest))
    return sorted(key for key in wanted if key not in found or found[key] != wanted[key])
