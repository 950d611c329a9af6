"""The scripts that read and rewrite container images, on small ones as "docker save" writes them."""

import gzip
import hashlib
import io
import json
import runpy
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT

RELEASE = ROOT / "release"
WHEN = 1_700_000_000
STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.0.17-1~deb12u2

Package: mount
Status: install ok installed
Architecture: amd64
Source: util-linux (2.38.1-5+deb12u3)
Version: 1:2.38.1-5+deb12u3

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
METADATA = "Metadata-Version: 2.4\nName: CrypRQ\nVersion: 1.2.3\n\nText.\n"

installed = runpy.run_path(str(RELEASE / "image_packages.py"))["installed"]
repack = runpy.run_path(str(RELEASE / "repack_image.py"))["repack"]


def layer(files: dict[str, str], time: int = 0) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = len(text.encode()), time, 9999
            info.pax_headers = {"atime": f"{time}.5", "SCHILY.xattr.user.kept": "yes"} if time else {}
            archive.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


def saved(*layers: bytes, name: str = "engine", created: str = "2026-01-01T00:00:00.123Z") -> bytes:
    """What docker save writes: layers and configuration under names of the engine's, the manifest last."""
    config = {
        "architecture": "arm64", "os": "linux", "created": created, "container": name, "docker_version": "1",
        "config": {"Hostname": name, "Image": f"sha256:{name}", "Entrypoint": ["/entry"], "User": ""},
        "history": [{"created": created, "created_by": "COPY"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]},
    }  # fmt: skip
    names = [f"{name}{number}/layer.tar" for number in range(len(layers))]
    members = dict(zip(names, layers, strict=True)) | {f"{name}.json": json.dumps(config).encode()}
    manifest = [{"Config": f"{name}.json", "RepoTags": ["cryprq:1.2.3-arm64"], "Layers": names}]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in (members | {"manifest.json": json.dumps(manifest).encode()}).items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None, f"{member.name} is no file"
            found[member.name] = file.read()
    return found


def repacked(folder: Path, data: bytes) -> Path:
    source, target = folder / "saved.tar", folder / "repacked.tar.gz"
    source.write_bytes(data)
    repack(source, target, WHEN)
    return target


# ---- what is installed ----


def packages(folder: Path, *layers: bytes) -> list[str]:
    path = folder / "image.tar.gz"
    path.write_bytes(gzip.compress(saved(*layers)))
    return sorted(each.purl for each in installed(path))


BASE = {"var/lib/dpkg/status": STATUS, "usr/lib/os-release": 'NAME="Debian"\nVERSION_ID="12"\nID=debian\n'}


def test_debian_packages_name_their_release_and_source(tmp_path: Path) -> None:
    assert packages(tmp_path, layer(BASE)) == [
        "pkg:deb/debian/libssl3@3.0.17-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl",
        "pkg:deb/debian/mount@1%3A2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12"
        "&upstream=util-linux%402.38.1-5%2Bdeb12u3",
    ]


def test_upper_layers_replace_and_delete(tmp_path: Path) -> None:
    site = "opt/cryprq/lib/python3.11/site-packages"
    first = layer({f"./{site}/cryprq-1.2.2.dist-info/METADATA": METADATA.replace("1.2.3", "1.2.2")})
    second = layer({f"{site}/.wh.cryprq-1.2.2.dist-info": "", f"{site}/cryprq-1.2.3.dist-info/METADATA": METADATA})
    assert packages(tmp_path, first, second) == ["pkg:pypi/cryprq@1.2.3"]
    assert packages(tmp_path, second, layer({f"{site}/.wh..wh..opq": ""})) == []
    assert packages(tmp_path, layer(BASE), layer({"var/lib/dpkg/status": ""})) == []


# ---- the same contents, the same bytes ----


def test_two_builds_of_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    files = [{"a": "1", "b": "2"}, {"c": "3"}]
    one = saved(*(layer(each, WHEN + 10) for each in files), name="one", created="2026-01-01T00:00:00Z")
    other = saved(*(layer(each, WHEN + 99) for each in files), name="other", created="2026-02-02T00:00:00Z")
    assert repacked(tmp_path, one).read_bytes() == repacked(tmp_path, other).read_bytes()


def test_other_contents_give_other_bytes(tmp_path: Path) -> None:
    first = repacked(tmp_path, saved(layer({"a": "1"}))).read_bytes()
    assert first != repacked(tmp_path, saved(layer({"a": "2"}))).read_bytes()
    assert first != repacked(tmp_path, saved(layer({"a": "1"}, WHEN - 10))).read_bytes()  # an old time is content


def test_repacked_image_is_whole(tmp_path: Path) -> None:
    found = members(repacked(tmp_path, saved(layer({"a": "1", "b": "2"}, WHEN + 10), layer({"c": "3"}))))
    manifest = json.loads(found.pop("manifest.json"))[0]
    config: dict[str, Any] = json.loads(found.pop(manifest["Config"]))
    assert manifest["RepoTags"] == ["cryprq:1.2.3-arm64"]
    assert config["architecture"] == "arm64"
    assert config["config"] == {"Entrypoint": ["/entry"], "User": ""}
    assert config["created"] == config["history"][0]["created"] == "2023-11-14T22:13:20Z"
    digests = [f"sha256:{hashlib.sha256(found[name]).hexdigest()}" for name in manifest["Layers"]]
    assert digests == config["rootfs"]["diff_ids"]
    with tarfile.open(fileobj=io.BytesIO(found[manifest["Layers"][0]])) as archive:
        entries = [(each.name, each.mtime, each.uid, each.pax_headers) for each in archive]
    kept = {"SCHILY.xattr.user.kept": "yes"}
    assert entries == [("a", WHEN, 9999, kept), ("b", WHEN, 9999, kept)]


def test_layer_that_is_there_twice_is_stored_once(tmp_path: Path) -> None:
    found = members(repacked(tmp_path, saved(layer({"a": "1"}), layer({"a": "1"}))))
    assert len(found) == 3  # the layer, the configuration, the manifest
    assert len(json.loads(found["manifest.json"])[0]["Layers"]) == 2


# ---- programs of another architecture ----

EMULATOR = str(RELEASE / "with_emulator.sh")


def machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[subprocess.check_output(["uname", "-m"], text=True).strip()]


@pytest.mark.parametrize("status", [0, 7])
def test_own_architecture_needs_no_emulator(status: int) -> None:
    assert subprocess.run([EMULATOR, machine(), "sh", "-c", f"exit {status}"], timeout=30).returncode == status


@pytest.mark.parametrize("arguments", [[], ["arm64"], ["vax", "true"]])
def test_wrong_call_of_the_emulator_runs_nothing(arguments: list[str]) -> None:
    done = subprocess.run([EMULATOR, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
