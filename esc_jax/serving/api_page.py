"""The OpenAPI description of the API as a page without scripts from other servers."""

from html import escape
import json
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; } code, pre { font: 14px ui-monospace, monospace; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e4e4e4; }
.method { background: #37474f; color: #fff; padding: .1rem .5rem; border-radius: .2rem; font-size: 14px; }
form { background: #f4f4f4; padding: .75rem; }
"""
_SCRIPT = """
const form = document.querySelector("form"), answer = document.querySelector("#answer");
form.addEventListener("submit", async event => {
  event.preventDefault();
  const file = form.sound.files[0];
  if (!file) return;
  answer.textContent = "…";
  const response = await fetch("classify", {method: "POST", body: file,
    headers: {"Content-Type": "application/octet-stream"}});
  answer.textContent = response.status + "\\n" + JSON.stringify(await response.json(), null, 1);
});
"""
_TRY = """
<form><input type="file" name="sound" aria-label="recording"> <button>Classify</button></form>
<pre id="answer">The answer appears here.</pre>
"""


def _type(schema: dict[str, Any]) -> str:
    """The type of a field in words, with a link to the object that it refers to."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if options := schema.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))


def _limits(schema: dict[str, Any]) -> str:
    schema = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    parts = [f"≥ {schema['minimum']:g}"] if "minimum" in schema else []
    parts += [f"≤ {schema['maximum']:g}"] if "maximum" in schema else []
    return ", ".join(parts)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f'<h2><span class="method">{method.upper()}</span> <code>{escape(path)}</code></h2>']
    parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
    if body := operation.get("requestBody"):
        kinds = ", ".join(body["content"])
        parts.append(f"<p><b>Body</b> ({escape(kinds)}): {escape(body.get('description', ''))}</p>")
    if parameters := operation.get("parameters"):
        rows = []
        for one in parameters:
            schema = one["schema"]
            default = "" if schema.get("default") is None else escape(json.dumps(schema["default"]))
            cells = [f"<code>{escape(one['name'])}</code>", _type(schema), default, _limits(schema)]
            rows.append([*cells, escape(one.get("description") or "")])
        parts.append(_table(["parameter", "type", "default", "limits", "meaning"], rows))
    rows = []
    for status, answer in operation.get("responses", {}).items():
        kind, content = next(iter((answer.get("content") or {"": {}}).items()))
        schema = content.get("schema")
        rows.append([escape(status), _type(schema) if schema else escape(kind), escape(answer["description"])])
    parts.append("<h3>Answers</h3>" + _table(["status", "content", "meaning"], rows))
    return "".join(parts)


def _object(name: str, schema: dict[str, Any]) -> str:
    rows = [
        [f"<code>{escape(field)}</code>", _type(one), escape(one.get("description") or "")]
        for field, one in schema.get("properties", {}).items()
    ]
    text = escape(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{text}</p>' + _table(["field", "type", "meaning"], rows)


def page(description: dict[str, Any]) -> str:
    """An HTML page.

    Args:
        description: of the API, by OpenAPI.
    """
    info = description["info"]
    operations = [
        _operation(method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    objects = [
        _object(name, schema)
        for name, schema in description.get("components", {}).get("schemas", {}).items()
        if name not in ("HTTPValidationError", "ValidationError")
    ]
    command = "curl --data-binary @recording.wav -H 'Content-Type: application/octet-stream' ADDRESS/classify?hop_s=1"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}: API</title>'
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['description'])} For programs: <a href='openapi.json'>openapi.json</a>.</p>"
        f"<pre>{escape(command)}</pre>{_TRY}{''.join(operations)}<h2>Objects</h2>{''.join(objects)}"
        f"<script>{_SCRIPT}</script></html>"
    )
