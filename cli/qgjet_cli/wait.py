"""`qgjet wait`: until jobs that are in the queue have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from qgjet.errors import InvalidInput
from qgjet.events import GREEN, Verdict
from qgjet_cli import foreground, options, output, result
from qgjet_cli.board import Board
from qgjet_cli.client import open_api, patience
from qgjet_cli.exits import Exit
from qgjet_cli.foreground import Interrupted, Interrupts, TimedOut
from qgjet_cli.progress import summary, view_of
from qgjet_cli.request import seconds, settings_of
from qgjet_cli.watch import watch

if TYPE_CHECKING:
    from qgjet_cli.over_http import ApiClient


def wait(
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="Jobs to wait for.", show_default=False)] = None,
    suite: Annotated[str | None, typer.Option("--suite", metavar="SUITE_ID", help="Wait for all jobs of this suite.")] = None,
    timeout: options.Timeout = None,
    fail_on_flaky: options.FailOnFlaky = False,
    patience_: options.Patience = None,
    json: options.Json = False,
    api: options.Api = None,
    config: options.Config = None,
) -> None:
    """Wait for jobs and show their verdicts. Ctrl-C leaves them running. Needs the API."""
    if bool(job_ids) == bool(suite):
        raise InvalidInput("job_id", "give jobs, or --suite")
    timeout_s, patience_s = seconds("timeout", timeout), seconds("patience", patience_)
    settings = settings_of(config, None, api)

    async def body(interrupts: Interrupts) -> Exit:
        async with open_api(settings, what="waiting by id", patience_s=patience(timeout_s, patience_s), notice=output.note) as client:
            board = Board([], suite or "", grows=bool(suite))
            try:
                async with interrupts.limit(timeout_s):
                    await _fill(client, board, job_ids or [])
                    output.note(f"Waiting for {output.counted(len(board.tracks), 'job')}: {summary(board)}")
                    with view_of(board) as view:
                        await watch(client, board, view)
                    await _complete(client, board)
                code = result.exit_of(result.results_of(board), fail_on_flaky=fail_on_flaky)
            except TimedOut:
                code = Exit.TIMEOUT
                output.note(f"--timeout {timeout} is over: {summary(board)}")
            except Interrupted:
                code = interrupts.code
        result.show(result.results_of(board), code, suite_id=suite or "", json=json)
        return code

    foreground.run(body)


async def _fill(client: ApiClient, board: Board, job_ids: Sequence[str]) -> None:
    """Put what is asked for on the board, as it is now."""
    from qgjet_cli.over_http import track_of

    found = await client.suite(board.suite_id) if board.suite_id else [await client.job(job_id) for job_id in dict.fromkeys(job_ids)]
    board.tracks |= {job["job_id"]: track_of(job) for job in found}


async def _complete(client: ApiClient, board: Board) -> None:
    """Look up the first failure of jobs that had failed before this command looked."""
    from qgjet_cli.over_http import track_of

    for job_id, track in board.tracks.items():
        if track.first_failure is None and (track.verdict not in GREEN or track.verdict is Verdict.FLAKY):
            track.first_failure = track_of(await client.job(job_id)).first_failure
