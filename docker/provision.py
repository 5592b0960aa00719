"""Makes what the servers need and do not make by themselves: the bucket of MLflow's artifacts, and MLflow's user for workers.

Usage: `provision.py --bucket mlflow --user worker`. The user's password comes from WORKER_PASSWORD; the addresses and the admin's sign-in
from the variables that boto3 and MLflow read. What is there already is left as it is, but for the user's password.
"""

import argparse
import logging
import os
import sys

import boto3
from botocore.exceptions import ClientError
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

log = logging.getLogger("provision")


def make_bucket(name: str) -> None:
    """Makes the bucket, unless it is this user's already."""
    try:
        boto3.client("s3").create_bucket(Bucket=name)
        log.info("made the bucket %s", name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def make_user(name: str, password: str) -> None:
    """Makes the user, or gives the one that is there this password. It may make experiments and models, and is no admin."""
    users = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    try:
        users.create_user(name, password)
        log.info("made MLflow's user %s", name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        users.update_user_password(name, password)


def main() -> int:
    """Returns the exit status."""
    logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--user", required=True)
    arguments = parser.parse_args()
    make_bucket(arguments.bucket)
    make_user(arguments.user, os.environ["WORKER_PASSWORD"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
