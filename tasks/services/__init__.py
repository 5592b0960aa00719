"""Prefect and MLflow as servers, and what this checkout registers with a Prefect server.

In: the checkout and the channels' addresses. Out: running servers, deployments, work pools, automations, events, approvals.
Open `deploy.py` first.
"""
