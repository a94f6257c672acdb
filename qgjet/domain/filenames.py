"""Names of files that one machine gives and another one uses. Pure."""

from __future__ import annotations

from qgjet.domain.subjects import encode_token

MAX_NAME_BYTES = 240


def is_safe(name: str) -> bool:
    """Whether every system can hold a file of this relative name, with `/`, below the directory
    that it is given.
    """
    return (
        name.isprintable()
        and "\\" not in name
        and ":" not in name
        and all(part.strip() and part.strip(". ") for part in name.split("/"))
        and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
    )


def directory_name(job_id: str) -> str:
    """One directory for any id, which anybody may have written: it leads nowhere else."""
    return encode_token(job_id).replace("/", "%2F").replace("\\", "%5C").replace(":", "%3A")
