"""What is installed beside inspectd, as a CycloneDX document: `python -m tools.sbom > sbom.json`.

From the metadata of the installed packages alone; nothing is asked of any network. Run it with the
Python of the environment in question: /opt/inspectd/current/bin/python.
"""

import importlib.metadata
import json
import sys
import uuid
from datetime import datetime, timezone
from typing import Any


def document() -> dict[str, Any]:
    """CycloneDX 1.5, components sorted by name."""
    found = {
        (distribution.metadata["Name"] or "").lower().replace("_", "-"): distribution
        for distribution in importlib.metadata.distributions()
    }
    found.pop("", None)
    own = found.pop("inspectd")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "component": _component("inspectd", own) | {"type": "application"},
        },
        "components": [_component(name, found[name]) for name in sorted(found)],
    }


def _component(name: str, distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    metadata: Any = distribution.metadata  # an email.message.Message, which its stub hides
    expression = metadata.get("License-Expression")
    licence = expression or (metadata.get("License") or "").split("\n", 1)[0][:80]
    component: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": distribution.version,
        "purl": f"pkg:pypi/{name}@{distribution.version}",
        "bom-ref": f"{name}@{distribution.version}",
    }
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
