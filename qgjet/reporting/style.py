"""The style sheet of the HTML report. No fonts, no images, nothing that would have to be loaded."""

CSS = """
:root { --page: #f7f7f5; --card: #fff; --ink: #1c1d1f; --soft: #63666b; --line: #dfe0dc; --code: #f1f1ee;
  --bad: #c0272d; --broken: #8a3ffc; --flaky: #b06a00; --good: #1a7f37; --live: #0b63ce; --none: #6b7078 }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8e9ea; --soft: #a0a5ac; --line: #33373d; --code: #262a2f;
  --bad: #ff6b6b; --broken: #b794ff; --flaky: #f0a73a; --good: #4cc26b; --live: #62a8ff; --none: #9aa0a8 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
code, pre, .name { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em }
.kicker, .label { margin: 0; color: var(--soft); font-size: .8rem; letter-spacing: .04em; text-transform: uppercase }
h1 { margin: 0 0 .8rem; font-size: 1.5rem; line-height: 1.3 } h1 code { font-size: 1em }
h2 { margin: 2rem 0 .6rem; font-size: 1.1rem } h2 small { color: var(--soft); font-weight: 400 }
h3 { margin: 0; font-size: 1rem; font-weight: 600 } h3 .where { font-weight: 400 }
.bad { --tone: var(--bad) } .broken { --tone: var(--broken) } .flaky { --tone: var(--flaky) } .good { --tone: var(--good) } .live { --tone: var(--live) }
.none { --tone: var(--none) }
.badge { display: inline-block; padding: .05rem .5rem; border-radius: 1rem; background: var(--tone); color: var(--card); font-size: .78rem; font-weight: 600;
  line-height: 1.5; white-space: nowrap }
h1 .badge { font-size: .95rem; vertical-align: .12em }
.share { display: flex; gap: 2px; height: .55rem; border-radius: .3rem; overflow: hidden } .share i { background: var(--tone); min-width: 4px }
.chips { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0 1rem; padding: 0; list-style: none } .chips b { color: var(--tone) }
dl { display: flex; flex-wrap: wrap; gap: .5rem 1.8rem; margin: 0 } dt { color: var(--soft); font-size: .8rem } dd { margin: 0 }
.job { margin: .5rem 0; background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: 6px }
.job:target { outline: 2px solid var(--tone) }
summary { cursor: pointer } .job > summary { padding: .55rem .8rem } .fold > summary h2 { display: inline }
.fold > summary { margin: 2rem 0 .6rem }
.name { font-weight: 600 } .where { color: var(--soft); font-size: .86rem }
.body { padding: 0 .8rem .8rem } .body > * + * { margin-top: .7rem } .why { margin: 0 } .tests .why { display: block; margin-left: 1.1rem; font-size: .9rem }
.case { padding: .5rem .7rem; border: 1px solid var(--line); border-radius: 5px } .tries { margin: .3rem 0 0; padding: 0; list-style: none }
.tries li + li { margin-top: .4rem } .head { font-size: .9rem }
pre { margin: .25rem 0 0; padding: .55rem .7rem; background: var(--code); border-radius: 4px; overflow-x: auto; white-space: pre-wrap; max-height: 24rem;
  unicode-bidi: plaintext; text-align: start }
.dot { display: inline-block; width: .62rem; height: .62rem; margin-right: .45rem; border-radius: 50%; background: var(--tone) }
.tests, .artifacts { margin: .3rem 0 0; padding: 0; list-style: none } .more > summary { color: var(--soft); font-size: .9rem }
.label { font-size: .75rem; margin-top: .4rem }
a { color: var(--live) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem } th { color: var(--soft); font-weight: 400 }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; vertical-align: top; white-space: nowrap; overflow-wrap: normal }
.small { color: var(--soft); font-size: .82rem; margin-bottom: 0 } footer { margin-top: 2.5rem; color: var(--soft); font-size: .82rem }
.timeline { display: block; overflow: visible } .timeline text { fill: var(--soft); font-size: 11px } .timeline .agent { fill: var(--ink); font-size: 12px }
.grid { stroke: var(--line) } .bar { fill: var(--none) } .bar.failed, .bar.timed_out { fill: var(--bad) } .bar.infra_error, .bar.config_error,
.bar.attempt_lost, .bar.released { fill: var(--broken) } .bar.flaky { fill: var(--flaky) } .bar.passed { fill: var(--good) } .bar.running { fill: var(--live) }
.bar:hover { opacity: .75 } .stretched { overflow: visible } .installed { fill: none; stroke: var(--ink); stroke-width: 3; vector-effect: non-scaling-stroke }
@media print { body { max-width: none } .job { break-inside: avoid } }
"""
