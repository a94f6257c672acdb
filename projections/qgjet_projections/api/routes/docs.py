"""The page at /docs: a plain reference that needs nothing but this server, and Swagger UI in its
place when the browser can load it from its CDN.

Litestar's own pages are blank without the CDN; here it is a progressive improvement, so /docs works
in a closed network too. The browser takes from the CDN only files with the hashes below, and runs
no other script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from litestar import Request, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.types import OperationIDCreator

from qgjet.version import __version__
from qgjet_projections.api.access import PUBLIC
from qgjet_projections.api.headers import CSP, source_hash

SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.18.2"
SCRIPT_HASH = "sha384-NXtFPpN61oWCuN4D42K6Zd5Rt2+uxeIT36R7kpXBuY9tLnZorzrJ4ykpqwJfgjpZ"
STYLE_HASH = "sha384-rcbEi6xgdPk0iWkAQzT2F3FeBJXdG+ydrawGlfHAFIZG7wU6aKbQaRewysYpmrlW"
_METHODS = ("get", "post", "put", "patch", "delete")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }}
code, pre {{ font: 13px/1.4 ui-monospace, monospace }} pre {{ background: #f5f5f5; padding: .7rem; overflow: auto }}
details {{ border: 1px solid #ddd; border-radius: 4px; margin: .4rem 0; padding: .4rem .8rem }} summary {{ cursor: pointer }}
table {{ border-collapse: collapse }} td, th {{ text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0 }}
b.m {{ display: inline-block; width: 3.5rem }}
</style></head><body><div id="ui">
<h1>{title} {version}</h1><p>{description} Schema: <a href="{base}/openapi.json">openapi.json</a>, <a href="{base}/openapi.yaml">openapi.yaml</a></p>
{operations}
<h2>Schemas</h2>
{schemas}
</div>
<script>{script}</script>
<script async src="{swagger}/swagger-ui-bundle.js" id="swagger" integrity="{script_hash}" crossorigin="anonymous"></script>
</body></html>"""

_SCRIPT = """
function swagger() {{
  const css = document.createElement("link");
  Object.assign(css, {{ rel: "stylesheet", href: "{swagger}/swagger-ui.css", integrity: "{style_hash}", crossOrigin: "anonymous" }});
  document.head.append(css);
  document.body.style.maxWidth = "none";
  SwaggerUIBundle({{ url: "{base}/openapi.json", dom_id: "#ui", deepLinking: true }});
}}
document.addEventListener("load", event => {{ if (event.target.id === "swagger") swagger(); }}, true);
""".format(swagger=SWAGGER, style_hash=STYLE_HASH, base="/docs")
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src '{source_hash(_SCRIPT)}' {SWAGGER}/swagger-ui-bundle.js",
        f"style-src 'unsafe-inline' {SWAGGER}/swagger-ui.css",  # Swagger UI writes style attributes
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class ReferencePage(OpenAPIRenderPlugin):
    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        info = openapi_schema["info"]
        page = _PAGE.format(
            title=escape(info["title"]),
            version=escape(info["version"]),
            description=escape(info.get("description", "")),
            base="/docs",
            swagger=SWAGGER,
            script=_SCRIPT,
            script_hash=SCRIPT_HASH,
            operations="\n".join(_operations(openapi_schema)),
            schemas="\n".join(_schemas(openapi_schema)),
        )
        return page.encode()


def _operations(schema: Mapping[str, Any]) -> Iterable[str]:
    for tag in schema.get("tags", []):
        yield f"<h2>{escape(tag['name'])}</h2><p>{escape(tag.get('description', ''))}</p>"
        for path, methods in schema["paths"].items():
            for method in _METHODS:
                if tag["name"] in methods.get(method, {}).get("tags", []):
                    yield _operation(method, path, methods[method])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    parts = [
        f"<details><summary><b class=m>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation.get('summary', ''))}</summary>",
        f"<p>{escape(operation.get('description', ''))}</p>",
        "".join(
            f"<p>Body: <code>{escape(kind)}</code> {_type(content.get('schema', {}))}</p>"
            for kind, content in body.items()
        ),
        _table(
            "Parameter",
            (
                (f"{p['name']} ({p['in']})", _type(p.get("schema", {})), p.get("description", ""))
                for p in operation.get("parameters", [])
            ),
        ),
        _table(
            "Status",
            (
                (status, _contents(answer), answer.get("description", ""))
                for status, answer in operation["responses"].items()
            ),
        ),
        "</details>",
    ]
    return "".join(parts)


def _table(heading: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{escape(text)}</td></tr>"
        for name, kind, text in rows
    ]
    return (
        f"<table><tr><th>{heading}</th><th></th><th></th></tr>{''.join(lines)}</table>"
        if lines
        else ""
    )


def _contents(answer: Mapping[str, Any]) -> str:
    return " ".join(
        _type(content.get("schema", {})) for content in answer.get("content", {}).values()
    )


def _type(schema: Mapping[str, Any]) -> str:
    """A short word for a schema, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema:
        return escape(", ".join(map(str, schema["enum"])))
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    kind = schema.get("type", "any")
    return escape(kind if isinstance(kind, str) else " or ".join(kind))


def _schemas(schema: Mapping[str, Any]) -> Iterable[str]:
    for name, one in sorted(schema.get("components", {}).get("schemas", {}).items()):
        required = set(one.get("required", []))
        rows = [
            (key + (" *" if key in required else ""), _type(part), part.get("description", ""))
            for key, part in one.get("properties", {}).items()
        ]
        table = (
            _table("Field (* always there, or required)", rows) if rows else f"<p>{_type(one)}</p>"
        )
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{table}</details>'


def openapi_config(operation_id: OperationIDCreator) -> OpenAPIConfig:
    return OpenAPIConfig(
        operation_id_creator=operation_id,
        title="qgjet",
        version=__version__,
        description="Queue for AppWright test jobs. Errors are problem documents (RFC 9457).",
        openapi_router=Router(
            "/docs",
            route_handlers=[],
            include_in_schema=False,
            opt=PUBLIC,
            response_headers={CSP: POLICY},
        ),
        components=Components(
            security_schemes={
                "bearerAuth": SecurityScheme(
                    type="http", scheme="bearer", description="`qgjet token create` makes one."
                )
            }
        ),
        security=[{"bearerAuth": []}],
        tags=[
            Tag("jobs", "Submit, look up, cancel, run again."),
            Tag("suites", "The jobs of one submission, such as a CI run."),
            Tag("queue", "What waits, and who works."),
            Tag("events", "The log behind all of it."),
            Tag("compatibility", "Paths that other programs call, such as `qgjob` 1.4.0."),
            Tag("health", "For probes and Prometheus."),
        ],
        render_plugins=[
            ReferencePage(path="/"),
            JsonRenderPlugin(path="/openapi.json"),
            YamlRenderPlugin(path=["/openapi.yaml", "/openapi.yml"]),
        ],
    )
