"""Saves and restores the databases and the store.

Usage: `backup.py save /backups` writes `/backups/TIME`; `backup.py restore /backups/TIME` restores it. The connections come from the
variables of libpq (PGHOST, PGUSER, PGPASSWORD …) and boto3 (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID …).

A back-up is a self-contained folder: a dump of each database, the objects of each bucket named by the hash of their bytes, and
`manifest.json`. Objects of the previous back-up are hard-linked, not downloaded again. The databases are saved before the store: an object
is stored before a row refers to it, so every object that a saved row names is in the back-up. Restoring uses the opposite order.
"""

import argparse
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

DATABASES = ("prefect", "mlflow", "mlflow_auth")
BUCKETS = ("mlflow",)
MANIFEST = "manifest.json"
BLOCK = 1 << 20

log = logging.getLogger("backup")


class BackupError(Exception):
    """A back-up cannot be saved or restored. The text says which and what to do."""


def save(folder: Path, databases: tuple[str, ...] = DATABASES, buckets: tuple[str, ...] = BUCKETS) -> Path:
    """Writes a back-up into `folder`, beside earlier ones. Its name is `.TIME` until it is complete, then `TIME`.

    Raises BackupError if one is being saved there, or a part cannot be saved. What an earlier attempt left is removed.
    """
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    partial = folder / f".{name}"
    with _lock(folder), ExitStack() as running:
        for left in folder.glob(".[0-9]*Z"):
            shutil.rmtree(left)
        (partial / "objects").mkdir(parents=True)
        running.callback(shutil.rmtree, partial, ignore_errors=True)  # if it fails; after a success there is no such folder
        for database in databases:
            _run("pg_dump", "--format=custom", f"--file={partial / database}.dump", database)
        earlier = _earlier_objects(folder)
        manifest = {bucket: _save_bucket(bucket, partial / "objects", earlier) for bucket in buckets}
        (partial / MANIFEST).write_text(json.dumps({"databases": databases, "buckets": manifest}, indent=1), encoding="utf-8")
        partial.rename(folder / name)
    log.info("saved %s: %d databases, %d objects", folder / name, len(databases), sum(map(len, manifest.values())))
    return folder / name


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the kernel releases when this process ends. Raises BackupError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"{folder}: another back-up is being saved there. Wait until it has ended.") from None
        yield
    finally:
        os.close(descriptor)


def restore(backup: Path) -> None:
    """Restores the databases and the store. The servers must be stopped; newer objects stay in the store.

    Raises BackupError, before anything is changed, if the back-up is incomplete.
    """
    if not (backup / MANIFEST).is_file():
        raise BackupError(f"{backup} is not a back-up: it has no {MANIFEST}. Others: {_others(backup)}.")
    manifest = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
    _check(backup, manifest)
    for bucket, objects in manifest["buckets"].items():
        _restore_bucket(bucket, objects, backup / "objects")
    for database in manifest["databases"]:
        _run(
            "pg_restore",
            "--clean",
            "--if-exists",
            "--exit-on-error",
            "--single-transaction",
            f"--dbname={database}",
            f"{backup / database}.dump",
        )
    log.info("restored %s", backup)


def _save_bucket(bucket: str, folder: Path, earlier: dict[tuple[str, str, str], Path]) -> dict[str, dict[str, Any]]:
    """Saves the objects of a bucket. Returns by key the hash of the bytes, the etag and the size."""
    client = boto3.client("s3")
    entries = {}
    for key, etag, size in _listed(client, bucket):
        known = earlier.get((bucket, key, etag))
        if known is None:
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                client.download_fileobj(bucket, key, file)
            fetched = Path(file.name)
            digest = _sha256(fetched)
            fetched.rename(folder / digest)
        else:
            digest = known.name
            _link(known, folder / digest)
        entries[key] = {"sha256": digest, "etag": etag, "size": size}
    return entries


def _restore_bucket(bucket: str, objects: dict[str, dict[str, Any]], folder: Path) -> None:
    client = boto3.client("s3")
    if bucket not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket)
    present = {key: (etag, size) for key, etag, size in _listed(client, bucket)}
    for key, entry in objects.items():
        if present.get(key) != (entry["etag"], entry["size"]):
            client.upload_file(str(folder / entry["sha256"]), bucket, key)


def _check(backup: Path, manifest: dict[str, Any]) -> None:
    for database in manifest["databases"]:
        if not (backup / f"{database}.dump").is_file():
            raise BackupError(f"{backup / database}.dump is missing, so this back-up cannot be restored. Others: {_others(backup)}.")
    for objects in manifest["buckets"].values():
        for key, entry in objects.items():
            path = backup / "objects" / entry["sha256"]
            if not path.is_file() or _sha256(path) != entry["sha256"]:
                problem = "is damaged" if path.is_file() else "is missing"
                raise BackupError(f"{path} ({key}) {problem}, so this back-up cannot be restored. Others: {_others(backup)}.")


def _earlier_objects(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Returns the paths of the objects in the newest back-up, by bucket, key and etag."""
    complete = sorted(folder.glob(f"[0-9]*/{MANIFEST}"))
    if not complete:
        return {}
    objects = complete[-1].parent / "objects"
    buckets = json.loads(complete[-1].read_text(encoding="utf-8"))["buckets"]
    return {
        (bucket, key, entry["etag"]): objects / entry["sha256"] for bucket, entries in buckets.items() for key, entry in entries.items()
    }


def _listed(client: Any, bucket: str) -> Iterator[tuple[str, str, int]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            yield entry["Key"], entry["ETag"], entry["Size"]


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return  # two keys with the same bytes
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _others(backup: Path) -> str:
    others = sorted(path.parent.name for path in backup.parent.glob(f"[0-9]*/{MANIFEST}") if path.parent.name != backup.name)
    return f"{', '.join(others) or 'none'}, in {backup.parent}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")


def main() -> int:
    """Returns the exit status."""
    logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["save", "restore"])
    parser.add_argument("folder", type=Path, help="save: the folder of all back-ups; restore: the back-up")
    arguments = parser.parse_args()
    try:
        if arguments.what == "save":
            save(arguments.folder)
        else:
            restore(arguments.folder)
    except (BackupError, BotoCoreError, ClientError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
