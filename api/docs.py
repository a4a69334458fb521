"""`/docs`: the OpenAPI document as a page to read, with nothing from outside and no script but its own."""

import base64
import hashlib
import json
from html import escape
from typing import Any, Final

from api.routing import OPEN, Answer, Asked, Endpoint

Json = dict[str, Any]

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #7a4d1d; }
@media (prefers-color-scheme: dark) { :root { --accent: #d9a066; } }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; display: grid; grid-template-columns: 17rem 1fr; }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; border-right: 1px solid var(--line); }
nav a { display: block; text-decoration: none; color: inherit; font-size: 13px; padding: 1px 0; }
nav a:hover, nav a:focus { color: var(--accent); }
main { padding: 1rem 2rem 4rem; max-width: 62rem; min-width: 0; }
h1 { margin-top: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { cursor: pointer; padding: .5rem .75rem; display: flex; gap: .75rem; flex-wrap: wrap; align-items: baseline; }
details > div { padding: 0 1rem 1rem; }
.method { font: 700 12px ui-monospace, monospace; min-width: 4rem; color: var(--accent); }
code, pre, .path { font-family: ui-monospace, monospace; font-size: 13px; }
.needs { margin-left: auto; font-size: 12px; opacity: .75; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem; border-top: 1px solid var(--line); }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; overflow: auto; }
input { width: 100%; padding: .4rem; margin-bottom: .75rem; font: inherit; }
@media (max-width: 50rem) { body { display: block; } nav { position: static; height: auto; } }
"""

_SCRIPT: Final = """
const box = document.getElementById("find");
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(" ");
  for (const item of document.querySelectorAll("[data-words]"))
    item.hidden = !words.every((word) => item.dataset.words.includes(word));
});
addEventListener("hashchange", open);
open();
"""


def docs_route(document: Json) -> Endpoint:
    """`GET /docs`, rendered once."""
    body = render(document).encode()
    policy = (
        f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = [(b"content-security-policy", policy.encode()), (b"cache-control", b"no-cache")]

    async def docs(_: Asked) -> Answer:
        """This API as a page to read."""
        return Answer(body, headers=headers, media_type=b"text/html; charset=utf-8")

    return Endpoint("GET", "/docs", docs, permission=OPEN, media_type="text/html", tag="operation")


def _hash(text: str) -> str:
    """What a policy allows this inline text by (CSP 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(document: Json) -> str:
    """The page."""
    groups: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    schemas = document["components"]["schemas"]
    links = "".join(_link(*each) for group in groups.values() for each in group)
    sections = "".join(
        f"<h2>{escape(tag)}</h2>" + "".join(_operation(*each) for each in group) for tag, group in groups.items()
    )
    types = "".join(_type(name, schema) for name, schema in sorted(schemas.items()))
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<nav><input id="find" type="search" placeholder="Find a route" aria-label="Find a route">{links}</nav>'
        f"<main><h1>{title}</h1><p>{_prose(info['description'])} The same as "
        f'<a href="/openapi.json">OpenAPI 3.1</a>.</p>{sections}<h2>Types</h2>{types}'
        f"<h2>Problems</h2>{_problems(document)}</main><script>{_SCRIPT}</script></body></html>"
    )


def _words(method: str, path: str, operation: Json) -> str:
    return escape(f"{method} {path} {operation['summary']} {operation['x-permission']}".lower(), quote=True)


def _link(method: str, path: str, operation: Json) -> str:
    words = _words(method, path, operation)
    return f'<a data-words="{words}" href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a>'


def _operation(method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    asked = f"<h4>Body</h4>{_schema(body)}" if body else ""
    return (
        f'<details id="{escape(operation["operationId"])}" data-words="{_words(method, path, operation)}"><summary>'
        f'<span class="method">{method}</span><span class="path">{escape(path)}</span>'
        f'<span>{escape(operation["summary"])}</span><span class="needs">{escape(operation["x-permission"])}</span>'
        f"</summary><div><p>{_prose(operation['description'])}</p>{_parameters(operation)}{asked}"
        f"<h4>Answers</h4>{_responses(operation)}</div></details>"
    )


def _parameters(operation: Json) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code></td><td>{p['in']}{', required' if p['required'] else ''}</td>"
        f"<td>{_schema(p['schema'])}</td><td>{_prose(p.get('description', ''))}</td></tr>"
        for p in operation.get("parameters", ())
    )
    return f"<h4>Parameters</h4><table>{rows}</table>" if rows else ""


def _responses(operation: Json) -> str:
    rows = ""
    for status, response in operation["responses"].items():
        schemas = [content.get("schema", {}) for content in response.get("content", {}).values()]
        shown = "".join(_schema(schema) for schema in schemas if schema)
        rows += f"<tr><td><code>{status}</code></td><td>{_prose(response['description'])}</td><td>{shown}</td></tr>"
    return f"<table>{rows}</table>"


def _schema(schema: Json) -> str:
    """A type in one line where it has a name of its own, else as JSON Schema."""
    reference = schema.get("$ref")
    if reference is not None:
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#type-{name}"><code>{name}</code></a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>"


def _type(name: str, schema: Json) -> str:
    shown = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return (
        f'<details id="type-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<div><pre>{shown}</pre></div></details>"
    )


def _problems(document: Json) -> str:
    """Every code with what it means: where a problem's `type` points to."""
    found: dict[str, tuple[str, str]] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if "application/problem+json" in response.get("content", {}):
                    for line in response["description"].split("\n\n"):
                        code, _, text = line.partition(": ")
                        found[code.strip("`")] = (status, text)
    rows = "".join(
        f'<tr id="problem-{code}"><td><code>{code}</code></td><td>{status}</td><td>{_prose(text)}</td></tr>'
        for code, (status, text) in sorted(found.items())
    )
    return f"<table>{rows}</table>"


def _prose(text: str) -> str:
    """Escaped text with `code` and paragraphs."""
    parts = escape(text).split("`")
    coded = "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
    return coded.replace("\n\n", "<br>")
