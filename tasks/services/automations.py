"""Prefect's automations: they mark dead runs as crashed and notify people.

They apply only to runs with the deployments' tag `reelnest`, since a server may have other runs.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from uuid import UUID

from prefect.automations import AutomationCore, CallWebhook, ChangeFlowRunState, EventTrigger, Posture, SendNotification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound

from tasks.services.notifications import CHAMPION, CHAMPION_CHANGED, CHAMPION_DRIFTED, DATA, DATA_REFUSED

TAGGED = {"prefect.resource.id": "prefect.tag.reelnest", "prefect.resource.role": "tag"}
RUNS = "prefect.flow-run.*"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled"))
PENDING = "prefect.flow-run.Pending"
AFTER_PENDING = tuple(f"prefect.flow-run.{state}" for state in ("Running", "Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "Late"))
"""Events after which a pending run is not lost: it runs, or waits again."""

SILENCE = timedelta(minutes=5)
"""A run without a heartbeat for this time counts as dead. Runs send one every 30 s (`prefect.yaml`); a server restart may delay them."""
START = timedelta(minutes=30)
"""A run that a worker took counts as lost if it does not start in this time: a cluster may first have to download a large image."""

DIED, NEVER_BEGAN = "reelnest: a run that died is crashed", "reelnest: a run that never began is crashed"
FAILED, NEW_CHAMPION, REFUSED = "reelnest: notify of a failed run", "reelnest: notify of a new champion", "reelnest: notify of refused data"
DRIFTED = "reelnest: notify of drifted data"
NOTIFICATIONS = (FAILED, NEW_CHAMPION, REFUSED, DRIFTED)


def _plain(expression: str) -> str:
    """Returns a value in a message. Angle brackets are replaced, so that it cannot contain a link, a mention or markup in any channel."""
    return "{{ (" + expression + ") | string | truncate(1500, true) | replace('<', '‹') | replace('>', '›') }}"


RUN = "The run, with its log and pages: {{ flow_run | ui_url }}"
FAILED_SUBJECT = f"{_plain('flow.name')}: {_plain('flow_run.name')} {_plain('flow_run.state.name')}"
FAILED_BODY = f"""{_plain("flow_run.state.message or 'no reason was given'")}

{RUN}
After fixing the cause, start it again: prefect deployment run '{_plain("flow.name")}/{_plain("deployment.name")}'
Finished stages are not repeated, and a training resumes from its last checkpoint."""

NEW_CHAMPION_SUBJECT = f"New champion: {_plain('event.payload.name')} version {_plain('event.payload.version')}"
NEW_CHAMPION_BODY = f"""{_plain("event.payload.reason")}
{_plain("event.payload.metric")}: {_plain("event.payload.value")}

{{% if event.payload.evaluation %}}Evaluation: {_plain("event.payload.evaluation")}
{{% endif %}}{{% if event.payload.training %}}Training: {_plain("event.payload.training")}
{{% endif %}}{RUN}
To undo the promotion: reelnest rollback"""

REFUSED_SUBJECT = f"Data refused: {_plain('event.payload.quarantined')} bad records"
REFUSED_BODY = f"""{_plain("event.payload.why")}

Good: {_plain("event.payload.videos_good")} of {_plain("event.payload.videos")} videos, \
{_plain("event.payload.pairs_good")} of {_plain("event.payload.pairs")} pairs.
{{% for reason in event.payload.reasons %}}- {_plain("reason")}
{{% endfor %}}
{{% if event.payload.page %}}The bad records: {_plain("event.payload.page")}
{{% endif %}}{RUN}
Nothing was trained. Commit corrected data, or allow more bad records: validate.max_quarantined_fraction in params.yaml."""

DRIFTED_SUBJECT = f"Data drifted from {_plain('event.payload.name')} version {_plain('event.payload.version')}"
DRIFTED_BODY = f"""{_plain("event.payload.headline")}

{{% for measure in event.payload.measures %}}- {_plain("measure")}
{{% endfor %}}
{{% if event.payload.page %}}Details: {_plain("event.payload.page")}
{{% endif %}}{RUN}
To train on the new data: prefect deployment run reelnest-train/by-hand"""


def on_death(silence: timedelta = SILENCE, start: timedelta = START) -> list[AutomationCore]:
    """Returns the automations that mark dead runs as crashed, which frees their slots. A run that has ended keeps its state."""
    dead = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="No heartbeat: the run's process or machine is gone.")
    lost = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="The run did not start: its worker or machine is gone.")
    return [
        AutomationCore(name=DIED, trigger=_missing(HEARTBEAT, {HEARTBEAT, *ENDS}, silence), actions=[dead]),
        AutomationCore(name=NEVER_BEGAN, trigger=_missing(PENDING, {*AFTER_PENDING}, start), actions=[lost]),
    ]


def on_news(channels: Mapping[str, UUID]) -> list[AutomationCore]:
    """Returns the automations that notify people, each through every channel. `channels` has the ids of their blocks by name."""
    ended_badly = EventTrigger(
        expect={RUNS},
        match={"prefect.resource.id": RUNS, "prefect.state-type": ["FAILED", "CRASHED"]},
        match_related=TAGGED,
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    return [
        _message(FAILED, ended_badly, FAILED_SUBJECT, FAILED_BODY, channels),
        _message(NEW_CHAMPION, _happened(CHAMPION_CHANGED, CHAMPION), NEW_CHAMPION_SUBJECT, NEW_CHAMPION_BODY, channels),
        _message(DRIFTED, _happened(CHAMPION_DRIFTED, CHAMPION), DRIFTED_SUBJECT, DRIFTED_BODY, channels),
        _message(REFUSED, _happened(DATA_REFUSED, DATA), REFUSED_SUBJECT, REFUSED_BODY, channels),
    ]


def keep(automations: Iterable[AutomationCore]) -> None:
    """Creates each automation, or updates the one with its name. Disabled automations stay disabled."""
    with get_client(sync_client=True) as client:
        for automation in automations:
            present = _named(client, automation.name)
            if present:
                client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))
            else:
                client.create_automation(automation)
            # Two simultaneous commands may both have created one; both keep the same.
            _delete(client, _named(client, automation.name)[1:])


def remove(names: Iterable[str]) -> None:
    """Deletes the automations of these names."""
    with get_client(sync_client=True) as client:
        for name in names:
            _delete(client, _named(client, name))


def _named(client: SyncPrefectClient, name: str) -> list[Automation]:
    # All commands must see them in the same order.
    return sorted(client.read_automations_by_name(name), key=lambda automation: str(automation.id))


def _delete(client: SyncPrefectClient, automations: Iterable[Automation]) -> None:
    for automation in automations:
        try:
            client.delete_automation(automation.id)
        except ObjectNotFound:
            continue


def _missing(after: str, expected: set[str], within: timedelta) -> EventTrigger:
    return EventTrigger(
        after={after},
        expect=expected,
        match={"prefect.resource.id": RUNS},
        match_related=TAGGED,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _happened(event: str, resource: str) -> EventTrigger:
    match = {"prefect.resource.id": resource}
    return EventTrigger(expect={event}, match=match, posture=Posture.Reactive, threshold=1, within=timedelta(0))


def _message(name: str, trigger: EventTrigger, subject: str, body: str, channels: Mapping[str, UUID]) -> AutomationCore:
    payload = f"{{% set body %}}{body}{{% endset %}}{{% set subject %}}{subject}{{% endset %}}"
    payload += '{"subject": {{ subject | tojson }}, "body": {{ body | tojson }}}'
    actions = [
        CallWebhook(block_document_id=block, payload=payload)
        if channel == "webhook"
        else SendNotification(block_document_id=block, subject=subject, body=body)
        for channel, block in channels.items()
    ]
    return AutomationCore(name=name, trigger=trigger, actions=actions)
