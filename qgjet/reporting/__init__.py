"""Reports of a suite as files: JUnit XML, CTRF, JSON, HTML. Pure: each module renders a
`SuiteReport`; nothing here reads, writes or asks for the time.

`cases` is what the two formats for machines have in common: which testcases a job comes to, and
what each of them came to. docs/reports.md is for readers.
"""
