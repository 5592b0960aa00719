"""Creates the bucket of MLflow's artifacts and MLflow's user for workers, which the servers do not create by themselves.

Usage: `provision.py --bucket mlflow --user worker`. The user's password comes from WORKER_PASSWORD; the addresses and the admin's password
come from the variables of boto3 and MLflow. Of an existing bucket and user, only the user's password changes.
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
    """Creates the bucket, unless it exists."""
    try:
        boto3.client("s3").create_bucket(Bucket=name)
        log.info("created the bucket %s", name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def make_user(name: str, password: str) -> None:
    """Creates the user, or updates its password. It can create experiments and models, and is not an admin."""
    users = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    try:
        users.create_user(name, password)
        log.info("created MLflow's user %s", name)
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
