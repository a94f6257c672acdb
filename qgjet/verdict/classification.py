"""From the text of an error to its kind, its heads and its sign. Pure.

Only the beginning of a message shows what it is about. Wrappers around it are taken off one after
the other, and each step is a head of its own: `WebDriverError: An unknown server-side error …
Original error: adb: device offline` has three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from qgjet.verdict.evidence import ErrorKind, Origin, Phase, ReportedError
from qgjet.verdict.patterns import Patterns, Sign
from qgjet.verdict.reasons import Reason
from qgjet.verdict.text import MAX_RAW_CHARS, clean

_MAX_HEAD_CHARS = 4000
_MAX_UNWRAPPED = 8
_MAX_CAUSES = 8

_SOURCE_OR_STACK = re.compile(r"\s*(?:>\s*)?\d+ \||\s+\||\s+at |\s+\.\.\. \d+ more$|\s+\^\s*$")
_CLASS = re.compile(
    r"(?:Uncaught )?(?P<name>(?:[\w$]+(?:\.|::|\$))*[\w$]*(?:Errors?|Exception|Failure|Fault|Timeout|Failed|Errno::\w+|ECONN\w+)(?:Group)?)"
    r"(?: ?\[(?P<code>\w+)\])? ?:(?:\s+|$)"
)
"""The class that languages put before a message: `Error: `, `AssertionError [ERR_ASSERTION]: `,
`java.io.IOException: `, `X.YException : `.
"""
_ASSERTION_CLASS = re.compile(
    r"(?:.*(?:\.|::|\$))?(?:\w*Assert\w*|ComparisonFailure|ExpectationNotMet\w*|ExpectationFailed\w*|MultipleFailuresError|TestFailedException|Failed)$"
    r"|Xunit\.Sdk\.\w+$|Test::Unit::AssertionFailedError$|Minitest::Assertion$"
)
_BARE_ASSERTION = re.compile(r"AssertionError$")
"""Robot Framework writes this type for every failure, so the class in the message goes before it.
"""
_ROBOT_DATA = re.compile(
    r"No keyword with name '|Importing \w+(?: file)? '|\w+ must have closing END\."
)
_CODE_CLASS = re.compile(r"E[A-Z]{3,}$|UND_ERR_\w+$")
_ASSERTION_HEAD = re.compile(
    r"[Aa]ssert(?:ion)?\b|ASSERT|expect(?:\.\w+)*\(|[Ee]xpected\b|XCTAssert|XCTFail|Assert\.\w+|#?[Ee]xpectation\b|Condition (?:failed|not satisfied)"
    r"|Test Failed: |\(?'[^'\n]{0,500}' (?:!=|==|should)|.{0,300} should (?:be|have|not|contain|equal|match)\b"
    r"|DID NOT RAISE|View matching|.{0,300} doesn't match the selected view|Not equal:|Should\b|You must provide a|the given "
)
_EXPECT_LINE = re.compile(r"^\s*(?:await )?expect(?:\.\w+)*\(", re.MULTILINE)
_PREDICATE_LOG = re.compile(
    r"\n+Call [Ll]og:\n(?:- .*(?:\n|\Z))*?- .*waiting on the predicate[^\n]*"
)
_FRAME = re.compile(r"^[ \t]+at .*$", re.MULTILINE)
_EXPECTED = re.compile(r"^\s*(?:[Ee]xpected|[Ww]anted)\b[^\n:]*:", re.MULTILINE)
_RECEIVED = re.compile(r"^\s*(?:[Rr]eceived|[Aa]ctual|[Bb]ut was|[Gg]ot)\b[^\n:]*:", re.MULTILINE)
_COMPARISON = re.compile(
    r"[Ee]xpected:? ?[<\[].{0,500}(?:but was|but found)|\bis not equal to\b|assert .{0,500} (?:==|!=|<|>|in|not in) "
)
_TIME_LIMIT = re.compile(
    r"Test timeout of \d+ms exceeded|\"\w+\" hook timeout of|Timed out waiting [\d.]+m?s for|(?:thrown: \")?Exceeded timeout of \d+ ?ms for a"
    r"|Timeout of \d+ms exceeded|(?:Failed: )?Timeout \(?>[\d.]+s|(?:panic: )?test timed out after|[\w.$-]{1,200}\(.{0,200}\) timed out after"
    r"|Timeout \d+ms exceeded while waiting on the predicate|Test timeout [\d. \w]+ exceeded|Async callback was not invoked within"
    r"|Test '.{1,300}' (?:timed out after|exceeded execution timeout)"
)

_W3C_ERROR = r"(?:unknown error|session not created|invalid session id|no such \w+|timeout|script timeout|unknown command|WebDriver Error)"
"""WebdriverIO 8 takes the W3C error code for the name of its errors."""
_WRAPPERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"failed on (?:setup|teardown) with [\"'](?P<rest>[\s\S]*)[\"']\s*$",
        rf"{_W3C_ERROR}: (?P<rest>[\s\S]*)",
        r"(?:Message|message): (?P<rest>[\s\S]*)",
        r"An unknown server-side error occurred while processing the command\. (?:Original error: )?(?P<rest>[\s\S]*)",
        r"Could not proxy command to the remote server\. Original error: (?P<rest>[\s\S]*)",
        r"Could not start a new session\. Response code \d+\. Message: (?P<rest>[\s\S]*)",
        r"Command failed(?: with (?:exit code|code) \d+)?(?: \([^)\n]*\))?: [^\n]*\n(?P<rest>[\s\S]*)",
        r"(?:Also )?(?:(?:Parent )?[Ss]uite )?(?:[Ss]etup|[Tt]eardown) failed:\s+(?P<rest>[\s\S]*)",
        r"Several failures occurred:\s+1\) (?P<rest>[\s\S]*)",
        r"Failure/Error:[^\n]*\n+\s*(?P<rest>[\s\S]*)",
        r"(?:Unhandled (?:promise )?rejection|Unhandled error|Uncaught)[:.]? (?P<rest>[\s\S]*)",
        r"[\w./\\-]+\.\w{1,6}:\d+(?::\d+)?(?::| -) (?P<rest>[\s\S]*)",
        r"failed: caught error: \"?(?P<rest>[\s\S]*)",
        r"(?:OneTime)?(?:SetUp|TearDown) ?: (?P<rest>[\s\S]*)",
        r"(?:Test|(?:Class|Assembly) (?:Initialization|Cleanup)) method \S+ threw exception[.:]\s+(?P<rest>[\s\S]*)",
        r"● Test suite failed to run\s+(?P<rest>[\s\S]*)",
    )
)
_APPWRIGHT_ACTION = re.compile(
    r"Failed to (?:click|tap|fill|scroll|type|send)\b[^\n]{0,200}?[\"']?: "
)
_ABOUT_AN_ELEMENT = re.compile(
    r"(?:is )?not (?:visible|found|displayed|enabled)\s*$|was not found on the screen\s*$"
)
_INNER_CLASS = re.compile(rf"\": (?=(?:[\w$.]*(?:Error|Exception)|{_W3C_ERROR}): )")

_GENERIC = re.compile(
    r"\s*(?:failed|failure|error|test failed|(?:test )?collection failure|test (?:setup|teardown) failure|contains \d+ failed subtests?"
    r"|no error message\.?|<no message>|null)?\s*$",
    re.IGNORECASE,
)
_E_LINE = re.compile(r"^E(?:   |$)(.*)$", re.MULTILINE)
_CHAIN = re.compile(
    r"^(?:The above exception was the direct cause of|During handling of the above exception,).*$",
    re.MULTILINE,
)
_CAUSED_BY = re.compile(r"^\s*(?:Caused by|\[cause\]|\[errors\]): (.*)$", re.MULTILINE)
_CODE = re.compile(r"^\s*(?:\{ )?(?:errno: -?\d+, )?code: ['\"](\w{4,40})['\"]", re.MULTILINE)
_TRACEBACK = re.compile(
    r"\s*(?:failed on (?:setup|teardown) with [\"']file |def |@|self = |Traceback \(most recent|[\w./\\-]+\.py:\d+: in |ImportError while importing)"
)
_GO_NOISE = re.compile(
    r"^(?:\s*(?:=== (?:RUN|PAUSE|CONT|NAME)|--- FAIL).*|PASS|FAIL(?:\t\S+\t[\d.]+s)?)(?:\n|\Z)",
    re.MULTILINE,
)


def without_source(text: str) -> str:
    """An error text without the source excerpt and the stack that tools append to it."""
    kept = [
        line for line in clean(text, MAX_RAW_CHARS).split("\n") if not _SOURCE_OR_STACK.match(line)
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def heads_of(text: str) -> tuple[str, ...]:
    """The beginning of a message, then the same without each wrapper around it."""
    return tuple(head for head, _ in _levels(text))


def classify(
    message: str,
    *,
    patterns: Patterns,
    details: str = "",
    type_name: str = "",
    causes: Iterable[str] = (),
    phase: Phase = Phase.BODY,
    origin: Origin = Origin.UNKNOWN,
    file: str = "",
    line: int = 0,
    in_asked_file: bool = False,
    by_matcher: bool = False,
    causes_in_text: bool = True,
) -> ReportedError:
    """Build the error that a text stands for.

    Args:
        message: The message, as the tool wrote it.
        patterns: The catalogue.
        details: What the tool wrote beside the message, such as pytest's traceback. How a tool splits the two changes nothing.
        type_name: The class that the tool names apart from the message.
        causes: Messages of the errors that caused this one.
        phase: When it was raised.
        origin: Where the first stack frame lies.
        file: Place in the project, where known.
        line: Line in `file`.
        in_asked_file: Whether it lies in the file that the job asked for.
        by_matcher: Whether a matcher raised it, as its place shows.
        causes_in_text: Whether causes and codes may stand below a stack in the text.
    """
    message, details = _without_predicate(_from_json(message)), _from_json(details)
    lead, more = _split(message, details, causes_in_text)
    text = without_source(_joined(message, details))
    plain = text if lead == _joined(message, details) else without_source(lead)
    levels = list(_levels(plain)) if not _GENERIC.match(plain) else []
    typed = (
        [f"{type_name}: {plain}"]
        if type_name and " " not in type_name and not plain.startswith(type_name)
        else []
    )
    found = [*typed, *(head for head, _ in levels)]
    for cause in (*causes, *more):
        found += heads_of(without_source(cause))
    found += [
        f"code: {code}"
        for code in _codes(levels, _below_stack(details or message) if causes_in_text else "")
    ]
    kind = _assertion(plain, text, levels, type_name, details) or _late_assertion(
        message, by_matcher
    )
    sign = None if kind else patterns.sign(found)
    if (
        sign is not None
        and re.match(r"SyntaxError: (?!/)", plain)
        and origin is Origin.TEAM
        and phase is not Phase.OUTSIDE
    ):
        sign = None  # of a text that the test parsed, not of a file
    return ReportedError(
        kind=kind or _kind(found, sign, patterns, origin),
        phase=_phase(message, phase),
        origin=origin,
        text=clean(text),
        heads=tuple(head[:200] for head in found[:8]),
        sign=sign,
        final=patterns.is_final(found),
        file=file,
        line=line,
        in_asked_file=in_asked_file,
    )


def _from_json(text: str) -> str:
    """The message in an error that was written as JSON, as Jest does for hooks and files; else the
    text as it is.
    """
    if (
        not text.lstrip().startswith("{")
        or not text.rstrip().endswith("}")
        or len(text) > MAX_RAW_CHARS
    ):
        return text
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError):
        return text
    texts = [
        value
        for key in ("message", "_originalMessage", "stack")
        if isinstance(value := found.get(key), str) and value.strip()
    ]
    code = found.get("code")
    return (
        texts[0] if texts else f"code: {code}" if isinstance(code, str) else text if found else ""
    )


def _joined(message: str, details: str) -> str:
    if not message.strip() or details.strip().startswith(message.strip()):
        return details
    return f"{message}\n{details}" if details else message


def _late_assertion(message: str, by_matcher: bool) -> ErrorKind | None:
    """An assertion that shows only in its place, or behind a message that is longer than what is
    read of it.
    """
    late = len(message) > MAX_RAW_CHARS and _EXPECT_LINE.search(
        without_source(message[-MAX_RAW_CHARS:])
    )
    return ErrorKind.ASSERTION if by_matcher or late else None


def _without_predicate(message: str) -> str:
    """The error of what `toPass` called: it passes that on, with a log behind it."""
    return _PREDICATE_LOG.sub("", message)


def _below_stack(text: str) -> str:
    """What stands below the first frame of a stack: causes and properties, but no words of the
    message.
    """
    found = _FRAME.search(text[:MAX_RAW_CHARS])
    return text[found.end() : MAX_RAW_CHARS] if found else ""


def _split(message: str, details: str, causes_in_text: bool) -> tuple[str, list[str]]:
    """The text whose beginning counts, and the causes behind it. A traceback of pytest has the
    error in its lines `E   …`.
    """
    whole = _joined(message, details)
    blocks = [_e_lines(block) for block in _CHAIN.split(whole[:MAX_RAW_CHARS])]
    blocks = [block for block in blocks if block]
    causes = _CAUSED_BY.findall(_below_stack(whole))[:_MAX_CAUSES] if causes_in_text else []
    own = _GO_NOISE.sub("", message)
    if not _GENERIC.match(own) and not (blocks and _e_only(own)):
        return (
            own if blocks or details.lstrip().startswith("Traceback (most recent") else whole
        ), causes + blocks[:-1][:_MAX_CAUSES]
    if blocks:
        return blocks[-1], causes + blocks[:-1][:_MAX_CAUSES]
    return _GO_NOISE.sub("", details or message), causes


def _e_lines(block: str) -> str:
    """The text of the lines `E   …` of one traceback."""
    return "\n".join(line.strip("\r") for line in _E_LINE.findall(block)).strip()


def _e_only(message: str) -> bool:
    """Whether the message is a traceback, and not a message."""
    first = next((line for line in message.split("\n") if line.strip()), "")
    return bool(_E_LINE.match(first) or _TRACEBACK.match(first))


def _levels(text: str) -> Iterator[tuple[str, str]]:
    """Each head, with the class that stood before it in the one around it."""
    head, name = text.strip()[:_MAX_HEAD_CHARS], ""
    for _ in range(_MAX_UNWRAPPED):
        yield head, name
        inner, name = _unwrapped(head)
        if not inner or inner == head:
            return
        head = inner


def _unwrapped(head: str) -> tuple[str, str]:
    """The head without its outermost wrapper, and the class that the wrapper named; empty when
    there is none.
    """
    if found := _CLASS.match(head):
        return head[found.end() :].strip(), found["name"]
    for wrapper in _WRAPPERS:
        if found := wrapper.match(head):
            return found["rest"].strip(), ""
    first = head.split("\n", 1)[0]
    if _APPWRIGHT_ACTION.match(first) and not _ABOUT_AN_ELEMENT.search(first):
        inner = list(_INNER_CLASS.finditer(first))
        return (head[inner[-1].end() :].strip(), "") if inner else ("", "")
    return "", ""


def _codes(levels: list[tuple[str, str]], text: str) -> list[str]:
    """Error codes of Node.js: in brackets after the class, or as a property below the stack."""
    outer = levels[0][0] if levels else ""
    found = _CLASS.match(outer)
    in_brackets = [found["code"]] if found and found["code"] else []
    return [
        code
        for code in (*in_brackets, *_CODE.findall(text[:MAX_RAW_CHARS]))
        if _CODE_CLASS.match(code)
    ][:_MAX_CAUSES]


def _assertion(
    plain: str, text: str, levels: list[tuple[str, str]], type_name: str, details: str
) -> ErrorKind | None:
    """Whether a failed assertion raised it, and which."""
    names = [name for _, name in levels if name]
    innermost = levels[-1][0] if levels else ""
    by_class = any(_ASSERTION_CLASS.match(name) for name in names) and not _TIME_LIMIT.match(
        innermost
    )
    by_type = bool(_ASSERTION_CLASS.match(type_name)) and not (
        _BARE_ASSERTION.match(type_name) and _is_robot(names, innermost)
    )
    compared = bool(_EXPECTED.search(text) and _RECEIVED.search(text)) or bool(
        _COMPARISON.search(plain)
    )
    by_head = any(_ASSERTION_HEAD.match(head) for head, _ in levels)
    by_line = bool(_EXPECT_LINE.search(text))
    by_python = (
        bool(re.match(r"(?:AssertionError|assert\b)", _e_lines(_CHAIN.split(details)[-1])))
        if "\nE " in f"\n{details}"
        else False
    )
    if not (
        by_class
        or by_type
        or by_head
        or by_line
        or by_python
        or (compared and _EXPECTED.search(text))
    ):
        return None
    return ErrorKind.COMPARISON if compared else ErrorKind.ASSERTION


def _is_robot(names: list[str], innermost: str) -> bool:
    """Whether a message shows by itself what it is, though its type calls it an assertion."""
    named = bool(names) and not any(_ASSERTION_CLASS.match(name) for name in names)
    return named or bool(_TIME_LIMIT.match(innermost) or _ROBOT_DATA.match(innermost))


def _kind(heads: list[str], sign: Sign | None, patterns: Patterns, origin: Origin) -> ErrorKind:
    if sign is not None and sign.reason is Reason.WORKER_CRASHED:
        return ErrorKind.PROCESS
    if any(_TIME_LIMIT.match(head) for head in heads):
        return ErrorKind.TIME_LIMIT
    if origin is Origin.LIBRARY or patterns.is_tool(heads):
        return ErrorKind.TOOL
    return ErrorKind.THROWN


def _phase(message: str, phase: Phase) -> Phase:
    if message.startswith(("failed on setup with", "test setup failure")):
        return Phase.BEFORE
    if message.startswith(("failed on teardown with", "test teardown failure")):
        return Phase.TEARDOWN
    return Phase.OUTSIDE if message.startswith("collection failure") else phase
