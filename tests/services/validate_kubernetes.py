"""What is wrong with an object on standard input: validate_kubernetes.py kubernetes|operator."""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import jsonschema
import yaml


def of_kubernetes(document):
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, "1.31", strict=True)
    except kubernetes_validate.ValidationError as problem:
        return [str(problem.message)]
    return []


def of_the_operator(document):
    root = Path(importlib.util.find_spec("dask_kubernetes").origin).parent
    for path in root.glob("operator/deployment/helm/dask-kubernetes-operator/crds/*.yaml"):
        for definition in yaml.safe_load_all(path.read_text()):
            if definition and definition["spec"]["names"]["kind"] == document["kind"]:
                schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema = _strict(copy.deepcopy(schema))
    schema["properties"]["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind", "status"):
        schema["properties"].setdefault(name, {})
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _strict(schema):
    """Make unknown keys errors, which the API server would drop in silence."""
    if isinstance(schema, dict):
        is_closed = schema.get("type") == "object" and "properties" in schema
        if is_closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _strict(value)
    elif isinstance(schema, list):
        for value in schema:
            _strict(value)
    return schema


if __name__ == "__main__":
    check = {"kubernetes": of_kubernetes, "operator": of_the_operator}[sys.argv[1]]
    print(json.dumps(check(json.load(sys.stdin))))
