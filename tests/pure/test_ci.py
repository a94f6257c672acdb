"""What CI systems say of a run, from environments such as they make them, and from any other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import NOW
from qgjet.config.settings import JobSettings
from qgjet.domain.deployment import Deployment
from qgjet.domain.submission import MAX_TAG_KEY, MAX_TAG_VALUE, MAX_TAGS, SubmitRequest, make_spec
from qgjet_cli.options import ci
from strategies import hostile_text

SHA, MERGE = "3f786850e387550fdab836ed7e6dc881de23001b", "89e6c98d92887913cadf06b2adb97f26cde4849b"

GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_HEAD_REF": "",
    "GITHUB_BASE_REF": "",
    "GITHUB_JOB": "e2e",
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_REF_NAME": "main",
    "GITHUB_REF_TYPE": "branch",
    "GITHUB_REPOSITORY": "acme/shop",
    "GITHUB_RUN_ATTEMPT": "1",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_SHA": SHA,
}
OF_GITHUB = {
    "ci": "github",
    "commit": SHA,
    "branch": "main",
    "run_url": "https://github.com/acme/shop/actions/runs/1658821493",
    "run_id": "1658821493",
    "run_attempt": "1",
    "actor": "octocat",
    "repository": "acme/shop",
    "job": "e2e",
}
GITHUB_PULL = GITHUB | {
    "GITHUB_EVENT_NAME": "pull_request",
    "GITHUB_HEAD_REF": "feature/cart",
    "GITHUB_BASE_REF": "main",
    "GITHUB_REF": "refs/pull/42/merge",
    "GITHUB_REF_NAME": "42/merge",
    "GITHUB_SHA": MERGE,
}
OF_PULL = OF_GITHUB | {"branch": "feature/cart", "pull_request": "42"}
EVENT = json.dumps(
    {
        "action": "synchronize",
        "pull_request": {"number": 42, "head": {"ref": "feature/cart", "sha": SHA}, "title": "€"},
    }
).encode()

GITLAB = {
    "CI": "true",
    "GITLAB_CI": "true",
    "CI_COMMIT_BRANCH": "main",
    "CI_COMMIT_REF_NAME": "main",
    "CI_COMMIT_SHA": SHA,
    "CI_JOB_NAME": "e2e: [emulator]",
    "CI_PIPELINE_ID": "1234567",
    "CI_PIPELINE_URL": "https://gitlab.com/acme/mobile/shop/-/pipelines/1234567",
    "CI_PROJECT_PATH": "acme/mobile/shop",
    "GITLAB_USER_LOGIN": "jane",
}
OF_GITLAB = {
    "ci": "gitlab",
    "commit": SHA,
    "branch": "main",
    "run_url": "https://gitlab.com/acme/mobile/shop/-/pipelines/1234567",
    "run_id": "1234567",
    "actor": "jane",
    "repository": "acme/mobile/shop",
    "job": "e2e: [emulator]",
}
GITLAB_MERGE = {name: value for name, value in GITLAB.items() if name != "CI_COMMIT_BRANCH"} | {
    "CI_COMMIT_REF_NAME": "feature/cart",
    "CI_COMMIT_SHA": MERGE,
    "CI_MERGE_REQUEST_IID": "7",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/cart",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": SHA,
}

JENKINS = {
    "JENKINS_URL": "https://jenkins.example/",
    "BUILD_NUMBER": "317",
    "BUILD_URL": "https://jenkins.example/job/shop/job/main/317/",
    "BRANCH_NAME": "main",
    "GIT_BRANCH": "main",
    "GIT_COMMIT": SHA,
    "GIT_URL": "https://ci:secret@git.example:8443/acme/shop.git",
    "JOB_NAME": "shop/main",
}
OF_JENKINS = {
    "ci": "jenkins",
    "commit": SHA,
    "branch": "main",
    "run_url": "https://jenkins.example/job/shop/job/main/317/",
    "run_id": "317",
    "repository": "acme/shop",
    "job": "shop/main",
}

BUILDKITE = {
    "CI": "true",
    "BUILDKITE": "true",
    "BUILDKITE_BRANCH": "feature/cart",
    "BUILDKITE_BUILD_CREATOR": "Jane Doe",
    "BUILDKITE_BUILD_ID": "4735ba57-80d0-46e2-8fa0-b28223a86586",
    "BUILDKITE_BUILD_URL": "https://buildkite.com/acme/shop/builds/1514",
    "BUILDKITE_COMMIT": SHA,
    "BUILDKITE_LABEL": ":iphone: e2e",
    "BUILDKITE_PULL_REQUEST": "42",
    "BUILDKITE_REPO": "git@github.com:acme/shop.git",
    "BUILDKITE_RETRY_COUNT": "1",
    "BUILDKITE_TAG": "",
}
OF_BUILDKITE = {
    "ci": "buildkite",
    "commit": SHA,
    "branch": "feature/cart",
    "pull_request": "42",
    "run_url": "https://buildkite.com/acme/shop/builds/1514",
    "run_id": "4735ba57-80d0-46e2-8fa0-b28223a86586",
    "run_attempt": "2",
    "actor": "Jane Doe",
    "repository": "acme/shop",
    "job": ":iphone: e2e",
}

CIRCLECI = {
    "CI": "true",
    "CIRCLECI": "true",
    "CIRCLE_BRANCH": "main",
    "CIRCLE_BUILD_NUM": "99",
    "CIRCLE_BUILD_URL": "https://circleci.com/gh/acme/shop/99",
    "CIRCLE_JOB": "e2e",
    "CIRCLE_PROJECT_REPONAME": "shop",
    "CIRCLE_PROJECT_USERNAME": "acme",
    "CIRCLE_SHA1": SHA,
    "CIRCLE_USERNAME": "jane",
    "CIRCLE_WORKFLOW_ID": "0f7b7f1c-1fbd-4bd6-8b2d-0e2f5e6f8a11",
}
OF_CIRCLECI = {
    "ci": "circleci",
    "commit": SHA,
    "branch": "main",
    "run_url": "https://circleci.com/gh/acme/shop/99",
    "run_id": "0f7b7f1c-1fbd-4bd6-8b2d-0e2f5e6f8a11",
    "actor": "jane",
    "repository": "acme/shop",
    "job": "e2e",
}


def without(tags: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key not in keys}


@pytest.mark.parametrize(
    ("environ", "event", "expected"),
    [
        pytest.param({"PATH": "/bin", "CI": "true"}, b"", {}, id="no system that is known"),
        pytest.param(GITHUB, b"", OF_GITHUB, id="github: push"),
        pytest.param(GITHUB_PULL, EVENT, OF_PULL, id="github: pull request"),
        pytest.param(
            GITHUB_PULL,
            b"{",
            OF_PULL | {"commit": MERGE},
            id="github: pull request, its event unreadable",
        ),
        pytest.param(
            GITHUB
            | {
                "GITHUB_EVENT_NAME": "pull_request_target",
                "GITHUB_HEAD_REF": "feature/cart",
                "GITHUB_SHA": MERGE,
            },
            EVENT,
            OF_PULL,
            id="github: pull_request_target, whose ref is the base",
        ),
        pytest.param(
            GITHUB
            | {"GITHUB_REF": "refs/tags/v1", "GITHUB_REF_NAME": "v1", "GITHUB_REF_TYPE": "tag"},
            b"",
            without(OF_GITHUB, "branch"),
            id="github: tag",
        ),
        pytest.param(
            GITHUB | {"GITHUB_RUN_ATTEMPT": "2", "GITHUB_SERVER_URL": "https://ghe.example"},
            b'{"pull_request": null}',
            OF_GITHUB
            | {
                "run_attempt": "2",
                "run_url": "https://ghe.example/acme/shop/actions/runs/1658821493/attempts/2",
            },
            id="github: second attempt, on a server of one's own",
        ),
        pytest.param(GITLAB, b"", OF_GITLAB, id="gitlab: branch"),
        pytest.param(
            GITLAB_MERGE,
            b"",
            OF_GITLAB | {"branch": "feature/cart", "pull_request": "7"},
            id="gitlab: merged results",
        ),
        pytest.param(
            GITLAB_MERGE | {"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "", "CI_COMMIT_SHA": SHA},
            b"",
            OF_GITLAB | {"branch": "feature/cart", "pull_request": "7"},
            id="gitlab: merge request",
        ),
        pytest.param(
            without(GITLAB, "CI_COMMIT_BRANCH") | {"CI_COMMIT_TAG": "v1"},
            b"",
            without(OF_GITLAB, "branch"),
            id="gitlab: tag",
        ),
        pytest.param(JENKINS, b"", OF_JENKINS, id="jenkins: multibranch"),
        pytest.param(
            JENKINS
            | {
                "BRANCH_NAME": "PR-42",
                "GIT_BRANCH": "PR-42",
                "CHANGE_ID": "42",
                "CHANGE_BRANCH": "feature/cart",
                "CHANGE_AUTHOR": "jane",
            },
            b"",
            OF_JENKINS | {"branch": "feature/cart", "pull_request": "42", "actor": "jane"},
            id="jenkins: pull request",
        ),
        pytest.param(
            without(JENKINS, "BRANCH_NAME") | {"GIT_BRANCH": "origin/release/1"},
            b"",
            OF_JENKINS | {"branch": "release/1"},
            id="jenkins: freestyle",
        ),
        pytest.param(
            JENKINS | {"BRANCH_NAME": "v1", "TAG_NAME": "v1"},
            b"",
            without(OF_JENKINS, "branch"),
            id="jenkins: tag",
        ),
        pytest.param(BUILDKITE, b"", OF_BUILDKITE, id="buildkite: pull request"),
        pytest.param(
            BUILDKITE
            | {
                "BUILDKITE_PULL_REQUEST": "false",
                "BUILDKITE_COMMIT": "HEAD",
                "BUILDKITE_STEP_KEY": "e2e",
                "BUILDKITE_RETRY_COUNT": "0",
            },
            b"",
            without(OF_BUILDKITE, "commit", "pull_request") | {"job": "e2e", "run_attempt": "1"},
            id="buildkite: branch, built by hand",
        ),
        pytest.param(CIRCLECI, b"", OF_CIRCLECI, id="circleci: branch"),
        pytest.param(
            CIRCLECI
            | {
                "CIRCLE_BRANCH": "feature/cart",
                "CIRCLE_PULL_REQUEST": "https://github.com/acme/shop/pull/42",
            },
            b"",
            OF_CIRCLECI | {"branch": "feature/cart", "pull_request": "42"},
            id="circleci: pull request",
        ),
        pytest.param(
            CIRCLECI
            | {"CIRCLE_BRANCH": "pull/42", "CIRCLE_PR_NUMBER": "42", "CIRCLE_PR_USERNAME": "joe"},
            b"",
            without(OF_CIRCLECI, "branch") | {"pull_request": "42", "actor": "joe"},
            id="circleci: fork",
        ),
    ],
)
def test_a_run_is_known_by_what_its_system_says(
    environ: dict[str, str], event: bytes, expected: dict[str, str]
) -> None:
    assert ci.tags(environ, event) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://u:p@host/acme/shop.git",
        "git@host:acme/shop.git",
        "ssh://git@host:22/acme/shop",
        "host:acme/shop",
    ],
)
def test_of_a_repositorys_address_only_the_path_is_kept(url: str) -> None:
    assert ci.tags(JENKINS | {"GIT_URL": url})["repository"] == "acme/shop"


NAMES = sorted(
    {
        name
        for environ in (GITHUB_PULL, GITLAB_MERGE, JENKINS, BUILDKITE, CIRCLECI)
        for name in environ
    }
)
environments = st.builds(
    lambda system, others: (
        system | {name: value for name, value in others.items() if name not in ci_switches}
    ),
    st.sampled_from([GITHUB_PULL, GITLAB_MERGE, JENKINS, BUILDKITE, CIRCLECI]),
    st.dictionaries(st.sampled_from(NAMES), hostile_text | st.text(min_size=250, max_size=600)),
)
ci_switches = {"GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"}
own_tags = st.dictionaries(
    st.sampled_from(ci.KEYS) | st.integers(0, 60).map(str),
    st.text("abc", max_size=5),
    max_size=MAX_TAGS,
)


@given(environments, st.binary() | st.just(EVENT), own_tags)
def test_whatever_a_ci_says_is_accepted_beside_the_submitters_own(
    environ: dict[str, str], event: bytes, own: dict[str, str]
) -> None:
    found = ci.tags(environ, event)
    assert found.keys() <= set(ci.KEYS)
    assert all(
        key and len(key) <= MAX_TAG_KEY and 0 < len(value) <= MAX_TAG_VALUE
        for key, value in found.items()
    )
    tags = ci.joined(own, found)
    assert own.items() <= tags.items()
    assert len(tags) == min(len(own | found), MAX_TAGS)
    request = SubmitRequest(
        org_id="acme", app_version_id="1", target="emulator", test="a.spec.ts", tags=tags
    )
    assert (
        make_spec(
            request,
            job_id="",
            now=NOW,
            deployment=Deployment(),
            defaults=JobSettings(),
            submitted_by="",
        ).tags
        == tags
    )


def test_what_is_missed_least_is_left_out_first() -> None:
    own = {str(number): "" for number in range(MAX_TAGS - 2)}
    assert list(ci.joined(own, ci.tags(GITHUB)))[-2:] == ["commit", "branch"]


def test_an_address_that_is_too_long_is_left_out_and_not_cut() -> None:
    tags = ci.tags(GITHUB | {"GITHUB_REPOSITORY": "acme/" + "x" * 300})
    assert "run_url" not in tags
    assert len(tags["repository"]) == MAX_TAG_VALUE
