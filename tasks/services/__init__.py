"""Prefect and MLflow as servers, and what a Prefect server knows of this checkout.

In: the checkout and the channels' addresses. Out: running servers, deployments, work pools, automations, events, a person's approval.
Open `deploy.py` first.
"""
