"""Prefect's automations: runs that died are marked as crashed, and people are notified.

Only runs that carry the deployments' tag `reelnest` are meant; a server may have others.
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
"""It begins, or waits for its turn again. (One that has ended is left as it is anyhow.)"""

SILENCE = timedelta(minutes=5)
"""Without a heartbeat, until a run is taken for dead. `prefect.yaml` asks for one each half a minute; a server may restart meanwhile."""
START = timedelta(minutes=30)
"""Until a run that a worker took begins: a cluster may have to fetch an image of gigabytes first."""

DIED, NEVER_BEGAN = "reelnest: a run that died is crashed", "reelnest: a run that never began is crashed"
FAILED, NEW_CHAMPION, REFUSED = "reelnest: notify of a failed run", "reelnest: notify of a new champion", "reelnest: notify of refused data"
DRIFTED = "reelnest: notify of drifted data"
NOTIFICATIONS = (FAILED, NEW_CHAMPION, REFUSED, DRIFTED)


def _plain(expression: str) -> str:
    """A value in a message. Without angle brackets nothing in it is a link, a mention or markup, in whatever channel."""
    return "{{ (" + expression + ") | string | truncate(1500, true) | replace('<', '‹') | replace('>', '›') }}"


RUN = "Its run, with log and pages: {{ flow_run | ui_url }}"
FAILED_SUBJECT = f"{_plain('flow.name')}: {_plain('flow_run.name')} {_plain('flow_run.state.name')}"
FAILED_BODY = f"""{_plain("flow_run.state.message or 'no reason was given'")}

{RUN}
When what it says is mended, start it again: prefect deployment run '{_plain("flow.name")}/{_plain("deployment.name")}'
What was finished is not done again, and a training goes on from its last checkpoint."""

NEW_CHAMPION_SUBJECT = f"New champion: {_plain('event.payload.name')} version {_plain('event.payload.version')}"
NEW_CHAMPION_BODY = f"""{_plain("event.payload.reason")}
{_plain("event.payload.metric")}: {_plain("event.payload.value")}

{{% if event.payload.evaluation %}}Its evaluation: {_plain("event.payload.evaluation")}
{{% endif %}}{{% if event.payload.training %}}Its training: {_plain("event.payload.training")}
{{% endif %}}{RUN}
To take it back: reelnest rollback"""

REFUSED_SUBJECT = f"Data refused: {_plain('event.payload.quarantined')} bad records"
REFUSED_BODY = f"""{_plain("event.payload.why")}

Good: {_plain("event.payload.videos_good")} of {_plain("event.payload.videos")} videos, \
{_plain("event.payload.pairs_good")} of {_plain("event.payload.pairs")} pairs.
{{% for reason in event.payload.reasons %}}- {_plain("reason")}
{{% endfor %}}
{{% if event.payload.page %}}What is wrong with which record: {_plain("event.payload.page")}
{{% endif %}}{RUN}
Nothing was trained. Commit better data, or allow more bad records: validate.max_quarantined_fraction in params.yaml."""

DRIFTED_SUBJECT = f"Data drifted from {_plain('event.payload.name')} version {_plain('event.payload.version')}"
DRIFTED_BODY = f"""{_plain("event.payload.headline")}

{{% for measure in event.payload.measures %}}- {_plain("measure")}
{{% endfor %}}
{{% if event.payload.page %}}How far, and what is new: {_plain("event.payload.page")}
{{% endif %}}{RUN}
To train on the new data: prefect deployment run reelnest-train/by-hand"""


def on_death(silence: timedelta = SILENCE, start: timedelta = START) -> list[AutomationCore]:
    """Gives back the place of a run that nobody runs any more. A run that has ended meanwhile keeps its state."""
    dead = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="It gave no sign of life: its process or machine is gone.")
    lost = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="It did not begin: its worker or machine is gone.")
    return [
        AutomationCore(name=DIED, trigger=_missing(HEARTBEAT, {HEARTBEAT, *ENDS}, silence), actions=[dead]),
        AutomationCore(name=NEVER_BEGAN, trigger=_missing(PENDING, {*AFTER_PENDING}, start), actions=[lost]),
    ]


def on_news(channels: Mapping[str, UUID]) -> list[AutomationCore]:
    """The messages, each to every channel: `channels` has the ids of their blocks, by name."""
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


def keep(wanted: Iterable[AutomationCore]) -> None:
    """Makes each automation, or brings the one of its name up to date. One that somebody switched off stays off."""
    with get_client(sync_client=True) as client:
        for automation in wanted:
            present = _named(client, automation.name)
            if present:
                client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))
            else:
                client.create_automation(automation)
            # Two commands at the same moment may both have made one: both keep the same.
            _delete(client, _named(client, automation.name)[1:])


def remove(names: Iterable[str]) -> None:
    """Deletes the automations of these names."""
    with get_client(sync_client=True) as client:
        for name in names:
            _delete(client, _named(client, name))


def _named(client: SyncPrefectClient, name: str) -> list[Automation]:
    # Every command is to see them in the same order.
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
