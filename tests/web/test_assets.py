"""Style sheet and scripts: their names change with their content, so a browser may keep them for
ever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient

from qgjet_projections.web import assets
from strategies import hostile_text


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of its own in the place of the package's."""
    directory = tmp_path / "static"
    (directory / "vendor").mkdir(parents=True)
    for name in ("app.css", *assets.SCRIPTS):
        (directory / name).write_text(f"/* {name} */")
    (directory / "vendor" / "secret.txt").write_text("not served")
    (tmp_path / "outside.js").write_text("not served")
    monkeypatch.setattr(assets, "STATIC", directory)
    forget()
    yield directory
    forget()


def forget() -> None:
    assets._assets.cache_clear()
    assets._by_url.cache_clear()


@pytest.fixture
def client() -> Iterator[TestClient[Litestar]]:
    with TestClient(Litestar([assets.asset])) as client:
        yield client


def test_a_name_changes_with_its_content(static: Path) -> None:
    before = {name: assets.url_of(name) for name in ("app.css", *assets.SCRIPTS)}
    (static / "app.css").write_text("body { color: red }")
    forget()
    after = {name: assets.url_of(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"app.css"}


def test_an_asset_is_kept_for_ever_and_anything_else_is_not_found(
    static: Path, client: TestClient[Litestar]
) -> None:
    for name, media_type in (("app.css", "text/css"), ("vendor/htmx.js", "text/javascript")):
        answer = client.get(assets.url_of(name))
        assert (answer.status_code, answer.text) == (200, f"/* {name} */")
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"].startswith(media_type)
    url = assets.url_of("app.css")
    for other in (
        "app.css",
        url.rsplit("/", 1)[1].replace("app.", "app.0"),
        "secret.txt",
        "..%2Foutside.js",
        "%2e%2e%2foutside.js",
        "..",
        "%00",
    ):
        assert client.get(f"/ui/assets/{other}").status_code == 404, other


def test_what_an_update_puts_in_its_place_does_not_go_out_under_the_old_name(
    static: Path, client: TestClient[Litestar]
) -> None:
    """A browser would keep it for a year."""
    url = assets.url_of("app.css")
    (static / "app.css").write_text("new")
    assert client.get(url).text == "/* app.css */"


@pytest.mark.usefixtures("static")
def test_no_path_leads_out_of_the_directory() -> None:
    known = {one.url.removeprefix("/ui/assets/") for one in assets._assets().values()}
    with TestClient(Litestar([assets.asset])) as client:

        @given(
            st.lists(
                st.sampled_from(
                    ["..", "/", "%2e", "%2f", "%5c", "outside.js", "vendor", "app.css", "\\", "%00"]
                ),
                max_size=6,
            ).map("".join)
            | hostile_text
        )
        def look(name: str) -> None:
            if name in known:
                return
            path = name.encode("utf-8", "replace").decode()
            answer = client.get(
                "/ui/assets/"
                + "".join(
                    char
                    if char in "./%\\" or (char.isalnum() and char.isascii())
                    else f"%{ord(char) % 256:02x}"
                    for char in path
                )
            )
            assert answer.status_code in (404, 405)
            assert "not served" not in answer.text

        look()


def test_without_the_scripts_of_others_a_page_has_none_and_the_log_says_once_how_to_get_them(
    static: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (static / "vendor" / "idiomorph.js").unlink()
    with caplog.at_level(logging.WARNING):
        assert (assets.scripts(), assets.scripts()) == ([], [])
        assert assets.url_of("app.css")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "make assets" in said
    assert "vendor/idiomorph.js" in said


@pytest.mark.usefixtures("static")
def test_it_comes_packed_to_those_who_can_unpack(client: TestClient[Litestar]) -> None:
    url = assets.url_of("app.css")
    for accepts, comes in (("gzip", "gzip"), ("identity", None)):
        answer = client.get(url, headers={"Accept-Encoding": accepts})
        assert (answer.text, answer.headers.get("content-encoding"), answer.headers["vary"]) == (
            "/* app.css */",
            comes,
            "Accept-Encoding",
        )
