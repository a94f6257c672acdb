"""What a CI system says about the run: commit, branch and the like, as tags. Pure: the environment
is passed in.

Only documented variables are read. What a system does not say is left out, never guessed; a
variable that is there but empty says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from qgjet.domain.submission import MAX_TAG_VALUE, MAX_TAGS

KEYS = (
    "commit",
    "branch",
    "pull_request",
    "run_url",
    "run_id",
    "run_attempt",
    "repository",
    "job",
    "actor",
    "ci",
)
"""All tags that are set here, what is missed least last: that is left out first where a job has too
many.
"""

Environment = Mapping[str, str]
_COMMIT = re.compile(r"[0-9a-f]{7,64}", re.I)
_PULL = re.compile(r"refs/pull/(\d+)/")


def is_github(environ: Environment) -> bool:
    return environ.get("GITHUB_ACTIONS") == "true"


def tags(environ: Environment, event: bytes = b"") -> dict[str, str]:
    """What is known of the run, fit to be tags; empty outside of the CI systems known here.

    `event` is the document that GitHub Actions leaves at GITHUB_EVENT_PATH: only there is the head
    commit of a pull request, GITHUB_SHA being a merge of it into its base. One that cannot be read
    counts as none.
    """
    found = next(
        (dict(read(environ, event)) for is_there, read in _SYSTEMS if is_there(environ)), {}
    )
    fit = {key: _fit(found.get(key, "")) for key in KEYS}
    if len(found.get("run_url", "")) > MAX_TAG_VALUE:  # half of an address leads nowhere
        del fit["run_url"]
    return {key: value for key, value in fit.items() if value}


def joined(own: Mapping[str, str], of_ci: Mapping[str, str]) -> dict[str, str]:
    """A submitter's own tags, and of the others as many as there is room for; of one key the
    submitter's counts.
    """
    others = [(key, value) for key, value in of_ci.items() if key not in own]
    return {**own, **dict(others[: max(MAX_TAGS - len(own), 0)])}


def _fit(value: str) -> str:
    """One line that can be stored: lone surrogates come out of bytes that are no UTF-8."""
    text = " ".join(value.encode("utf-8", "replace").decode().split())
    return "".join(character for character in text if character.isprintable())[:MAX_TAG_VALUE]


Found = Iterator[tuple[str, str]]


def _github(environ: Environment, event: bytes) -> Found:
    pull_request = _pull_request_of(event)
    found = _PULL.match(environ.get("GITHUB_REF", ""))
    yield "ci", "github"
    yield "commit", pull_request.head.sha or environ.get("GITHUB_SHA", "")
    yield (
        "branch",
        environ.get("GITHUB_HEAD_REF")
        or _if(
            environ.get("GITHUB_REF_TYPE") == "branch" and not found,
            environ.get("GITHUB_REF_NAME", ""),
        ),
    )
    yield "pull_request", found[1] if found else str(pull_request.number or "")
    run = environ.get("GITHUB_RUN_ID", "")
    address = f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{environ.get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
    attempt = environ.get("GITHUB_RUN_ATTEMPT", "")
    yield "run_url", _if(bool(run), address + _if(attempt not in ("", "1"), f"/attempts/{attempt}"))
    yield "run_id", run
    yield "run_attempt", attempt
    yield "actor", environ.get("GITHUB_ACTOR", "")
    yield "repository", environ.get("GITHUB_REPOSITORY", "")
    yield "job", environ.get("GITHUB_JOB", "")


class _Head(msgspec.Struct, frozen=True):
    sha: str = ""


class _PullRequest(msgspec.Struct, frozen=True):
    number: int = 0
    head: _Head = _Head()


class _Event(msgspec.Struct, frozen=True):
    pull_request: _PullRequest = _PullRequest()


def _pull_request_of(event: bytes) -> _PullRequest:
    try:
        return msgspec.json.decode(event, type=_Event).pull_request
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _PullRequest()


def _gitlab(environ: Environment, _: bytes) -> Found:
    merge, external = "CI_MERGE_REQUEST_", "CI_EXTERNAL_PULL_REQUEST_"
    yield "ci", "gitlab"
    # of a merged-results pipeline CI_COMMIT_SHA is the merge, as on GitHub
    yield (
        "commit",
        _first(
            environ, merge + "SOURCE_BRANCH_SHA", external + "SOURCE_BRANCH_SHA", "CI_COMMIT_SHA"
        ),
    )
    yield (
        "branch",
        _first(
            environ,
            merge + "SOURCE_BRANCH_NAME",
            external + "SOURCE_BRANCH_NAME",
            "CI_COMMIT_BRANCH",
        ),
    )
    yield "pull_request", _first(environ, merge + "IID", external + "IID")
    yield "run_url", environ.get("CI_PIPELINE_URL", "")
    yield "run_id", environ.get("CI_PIPELINE_ID", "")
    yield "actor", environ.get("GITLAB_USER_LOGIN", "")
    yield "repository", environ.get("CI_PROJECT_PATH", "")
    yield "job", environ.get("CI_JOB_NAME", "")


def _jenkins(environ: Environment, _: bytes) -> Found:
    branch = _first(environ, "CHANGE_BRANCH", "ghprbSourceBranch") or _if(
        not environ.get("TAG_NAME") and not environ.get("CHANGE_ID"),
        _first(environ, "BRANCH_NAME", "GIT_BRANCH").removeprefix("origin/"),
    )
    yield "ci", "jenkins"
    yield "commit", _first(environ, "ghprbActualCommit", "GIT_COMMIT")
    yield "branch", branch
    yield "pull_request", _first(environ, "CHANGE_ID", "ghprbPullId")
    yield "run_url", environ.get("BUILD_URL", "")
    yield "run_id", environ.get("BUILD_NUMBER", "")
    yield "actor", _first(environ, "BUILD_USER_ID", "CHANGE_AUTHOR")
    yield "repository", _repository(environ.get("GIT_URL", ""))
    yield "job", environ.get("JOB_NAME", "")


def _buildkite(environ: Environment, _: bytes) -> Found:
    commit, pull_request, retries = (
        environ.get(f"BUILDKITE_{name}", "") for name in ("COMMIT", "PULL_REQUEST", "RETRY_COUNT")
    )
    yield "ci", "buildkite"
    yield (
        "commit",
        _if(bool(_COMMIT.fullmatch(commit)), commit),
    )  # `HEAD` until the agent has checked out
    yield "branch", _if(not environ.get("BUILDKITE_TAG"), environ.get("BUILDKITE_BRANCH", ""))
    yield "pull_request", _if(pull_request != "false", pull_request)
    yield "run_url", environ.get("BUILDKITE_BUILD_URL", "")
    yield "run_id", environ.get("BUILDKITE_BUILD_ID", "")
    yield "run_attempt", str(int(retries) + 1) if re.fullmatch(r"[0-9]{1,9}", retries) else ""
    yield "actor", environ.get("BUILDKITE_BUILD_CREATOR", "")
    yield "repository", _repository(environ.get("BUILDKITE_REPO", ""))
    yield "job", _first(environ, "BUILDKITE_STEP_KEY", "BUILDKITE_LABEL")


def _circleci(environ: Environment, _: bytes) -> Found:
    branch, pull_request = (
        environ.get("CIRCLE_BRANCH", ""),
        environ.get("CIRCLE_PULL_REQUEST", "").rpartition("/")[2],
    )
    yield "ci", "circleci"
    yield "commit", environ.get("CIRCLE_SHA1", "")
    yield (
        "branch",
        _if(not re.fullmatch(r"pull/\d+(/\w+)?", branch), branch),
    )  # so it is called for a fork
    yield "pull_request", environ.get("CIRCLE_PR_NUMBER") or pull_request
    yield "run_url", environ.get("CIRCLE_BUILD_URL", "")
    yield "run_id", environ.get("CIRCLE_WORKFLOW_ID", "")
    yield "actor", _first(environ, "CIRCLE_PR_USERNAME", "CIRCLE_USERNAME")
    yield (
        "repository",
        "/".join(
            part
            for name in ("USERNAME", "REPONAME")
            if (part := environ.get(f"CIRCLE_PROJECT_{name}", ""))
        ),
    )
    yield "job", environ.get("CIRCLE_JOB", "")


_SYSTEMS: tuple[
    tuple[Callable[[Environment], bool], Callable[[Environment, bytes], Found]], ...
] = (
    (is_github, _github),
    (lambda environ: environ.get("GITLAB_CI") == "true", _gitlab),
    (lambda environ: environ.get("BUILDKITE") == "true", _buildkite),
    (lambda environ: environ.get("CIRCLECI") == "true", _circleci),
    (lambda environ: bool(environ.get("JENKINS_URL") and environ.get("BUILD_NUMBER")), _jenkins),
)


def _repository(url: str) -> str:
    """`owner/name` of a git URL, of which nothing else is kept: it may hold a password."""
    scp = re.fullmatch(r"(?:[^@/]*@)?[^:/]+:(?!//)(.*)", url)
    try:
        path = scp[1] if scp else urlsplit(url).path
    except ValueError:
        return ""
    return path.strip("/").removesuffix(".git")


def _first(environ: Environment, *names: str) -> str:
    return next((value for name in names if (value := environ.get(name))), "")


def _if(holds: bool, text: str) -> str:
    return text if holds else ""
