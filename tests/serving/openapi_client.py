"""A client of any HTTP API that follows its OpenAPI description: it sends and accepts nothing else."""

import http.client
import json
import urllib.parse
import urllib.request


def check(value, schema, description, place="answer"):
    """Compares a JSON value with a schema; unknown and missing fields are errors."""
    if reference := schema.get("$ref"):
        schema = description["components"]["schemas"][reference.rpartition("/")[2]]
    if options := schema.get("anyOf"):
        fits = [one for one in options if (one.get("type") == "null") == (value is None)]
        return check(value, fits[0], description, place)
    kinds = {
        "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    kind = schema.get("type")
    assert kind is None or isinstance(value, kinds[kind]), f"{place}: {value!r} is no {kind}"
    assert kind not in ("number", "integer") or not isinstance(value, bool), place
    if kind == "array":
        for index, one in enumerate(value):
            check(one, schema["items"], description, f"{place}[{index}]")
    if kind == "object" and "properties" in schema:
        assert set(value) <= set(schema["properties"]), f"{place}: {set(value) - set(schema['properties'])}"
        assert set(value) >= set(schema.get("required", [])), f"{place}: {set(schema['required']) - set(value)}"
        for name, one in value.items():
            check(one, schema["properties"][name], description, f"{place}.{name}")
    return None


class Client:
    """Calls the operations of an API.

    Args:
        address: of the server, http://HOST:PORT.
    """

    def __init__(self, address):
        self._host = urllib.parse.urlsplit(address).netloc
        with urllib.request.urlopen(f"{address}/openapi.json", timeout=60) as answer:
            self.description = json.load(answer)

    def __call__(self, method, path, body=None, **parameters):
        """(status, JSON or text, headers) of a call, which the description allows and whose answer it describes."""
        operation = self.description["paths"][path][method]
        names = {one["name"] for one in operation.get("parameters", [])}
        assert set(parameters) <= names, set(parameters) - names
        headers = {}
        if body is not None:
            (headers["Content-Type"],) = operation["requestBody"]["content"]
        connection = http.client.HTTPConnection(self._host, timeout=120)
        query = urllib.parse.urlencode(parameters)
        connection.request(method.upper(), f"{path}?{query}" if query else path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        expected = operation["responses"][str(answer.status)]
        schema = expected.get("content", {}).get("application/json", {}).get("schema")
        if not schema or answer.headers.get_content_type() != "application/json":
            return answer.status, content.decode(), answer.headers
        value = json.loads(content)
        check(value, schema, self.description)
        return answer.status, value, answer.headers
