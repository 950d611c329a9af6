"""Writes the bill of materials of a release folder as SPDX 2.3 JSON: each wheel with each of its files and the OpenSSL
that is linked in, the source distribution, and each container image with what its layers install.

    python -m release.sbom FOLDER VERSION > FOLDER/security/sbom-VERSION.spdx.json

Only what is in the folder counts: nothing is taken from this machine. Needs spdx-tools, which also validates the
document; one that is not valid is not written. SOURCE_DATE_EPOCH is its date, so that it is reproducible.
"""

import hashlib
import io
import os
import re
import sys
import tempfile
import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    File,
    Package,
    PackagePurpose,
    PackageVerificationCode,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from spdx_tools.spdx.writer.json.json_writer import write_document_to_file

from release.image_packages import installed

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "SPDXRef-DOCUMENT"


def identifier(*parts: str) -> str:
    return "SPDXRef-" + "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)


def sums(data: bytes) -> list[Checksum]:
    """SHA-1, which SPDX 2.3 wants of every file, and SHA-256, which means something."""
    return [
        Checksum(ChecksumAlgorithm.SHA1, hashlib.sha1(data, usedforsecurity=False).hexdigest()),
        Checksum(ChecksumAlgorithm.SHA256, hashlib.sha256(data).hexdigest()),
    ]


def purl(text: str) -> ExternalPackageRef:
    return ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", text)


def openssl_source() -> tuple[str, str]:
    """The version of the OpenSSL that wheels are linked with, and the SHA-256 of the crate that brings its source."""
    lock = tomllib.loads((ROOT / "release" / "openssl" / "Cargo.lock").read_text())
    crate = next(package for package in lock["package"] if package["name"] == "openssl-src")
    return crate["version"].partition("+")[2], crate["checksum"]


class Bill:
    """A document in the making."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.packages: dict[str, Package] = {}
        self.files: dict[str, File] = {}
        self.relationships: list[Relationship] = []

    def relate(self, one: str, kind: RelationshipType, other: str) -> None:
        self.relationships.append(Relationship(one, kind, other))

    def add(self, package: Package) -> str:
        self.packages[package.spdx_id] = package
        return str(package.spdx_id)

    def artefact(self, path: Path, data: bytes, purpose: PackagePurpose) -> Package:
        """A file of the release folder that is a package in itself."""
        package = Package(
            identifier("Package", path.name), path.name, SpdxNoAssertion(), version=self.version, file_name=path.name,
            files_analyzed=False, checksums=sums(data), license_declared=None, primary_package_purpose=purpose,
            supplier=SpdxNoAssertion(),
        )  # fmt: skip
        self.add(package)
        self.relate(DOCUMENT, RelationshipType.DESCRIBES, package.spdx_id)
        return package

    def wheel(self, path: Path) -> None:
        data = path.read_bytes()
        package = self.artefact(path, data, PackagePurpose.LIBRARY)
        package.external_references = [purl(f"pkg:pypi/cryprq@{self.version}?file_name={path.name}")]
        package.files_analyzed = True
        hashes = []
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted(archive.namelist()):
                content = archive.read(name)
                file = File(f"./{path.name}/{name}", identifier("File", path.name, name), sums(content))
                self.files[file.spdx_id] = file
                hashes.append(file.checksums[0].value)
                self.relate(package.spdx_id, RelationshipType.CONTAINS, file.spdx_id)
                if name.endswith(".so"):
                    self.relate(file.spdx_id, RelationshipType.STATIC_LINK, self.openssl())
        package.verification_code = PackageVerificationCode(
            hashlib.sha1("".join(sorted(hashes)).encode(), usedforsecurity=False).hexdigest()  # SPDX 2.3, 7.9
        )

    def openssl(self) -> str:
        version, checksum = openssl_source()
        cpe = f"cpe:2.3:a:openssl:openssl:{version}:*:*:*:*:*:*:*"
        package = Package(
            identifier("Package", "openssl", version), "openssl", SpdxNoAssertion(), version=version,
            files_analyzed=False, supplier=Actor(ActorType.ORGANIZATION, "OpenSSL Software Foundation"),
            comment=f"libcrypto, linked statically; source: crate openssl-src, SHA-256 {checksum}",
            external_references=[
                purl(f"pkg:generic/openssl@{version}"),
                ExternalPackageRef(ExternalPackageRefCategory.SECURITY, "cpe23Type", cpe),
            ],
        )  # fmt: skip
        return self.add(package)

    def image(self, path: Path) -> None:
        package = self.artefact(path, path.read_bytes(), PackagePurpose.CONTAINER)
        for found in sorted(set(installed(path))):
            part = Package(
                identifier("Package", *found[:4]), found.name, SpdxNoAssertion(), version=found.version,
                files_analyzed=False, external_references=[purl(found.purl)],
            )  # fmt: skip
            self.relate(package.spdx_id, RelationshipType.CONTAINS, self.add(part))
            if found.purl.startswith("pkg:pypi/cryprq@"):
                self.relate(part.spdx_id, RelationshipType.STATIC_LINK, self.openssl())

    def document(self, created: datetime) -> Document:
        namespace = f"urn:cryprq:sbom:{self.version}:{int(created.timestamp())}"
        tool = Actor(ActorType.TOOL, "cryprq-sbom")
        about = CreationInfo("SPDX-2.3", DOCUMENT, f"cryprq-{self.version}", namespace, [tool], created)
        unique = {
            (r.spdx_element_id, r.relationship_type.name, r.related_spdx_element_id): r for r in self.relationships
        }
        return Document(
            about,
            list(self.packages.values()),
            list(self.files.values()),
            relationships=[unique[key] for key in sorted(unique)],
        )


def make(folder: Path, version: str) -> Document:
    """The bill of what is in a release folder."""
    bill = Bill(version)
    for path in sorted((folder / "wheels").glob("*.whl")):
        bill.wheel(path)
    for path in sorted((folder / "sdist").glob("*.tar.gz")):
        bill.artefact(path, path.read_bytes(), PackagePurpose.SOURCE)
    for path in sorted((folder / "images").glob("*.tar.gz")):
        bill.image(path)
    return bill.document(datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).replace(tzinfo=None))


def main(folder: str, version: str) -> int:
    document = make(Path(folder), version)
    faults = validate_full_spdx_document(document)
    for fault in faults:
        print(f"sbom: {fault.validation_message} ({fault.context.spdx_id})", file=sys.stderr)
    if faults:
        return 1
    with tempfile.NamedTemporaryFile(suffix=".spdx.json") as file:
        write_document_to_file(document, file.name, validate=False)
        # The schema of SPDX 2.3 spells this with a hyphen, the library as 2.2 did.
        text = Path(file.name).read_text().replace('"PACKAGE_MANAGER"', '"PACKAGE-MANAGER"')
    sys.stdout.write(text.rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
