"""A client of the GraphQL API of Dagster's webserver: what its pages do, as typed Python calls.

Assets are named as Dagster prints them: the parts of the key joined by slashes.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo import DemoError, queries

RUN_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
RUN_PENDING = frozenset({"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"})
BACKFILL_PENDING = frozenset({"REQUESTED", "CANCELING", "FAILING"})

_REQUEST_SECONDS = 60.0


class GraphQLError(DemoError):
    """The webserver cannot be reached, or it refused; with its own message."""


class DefinitionsError(GraphQLError):
    """The code location does not load; with Python's message."""


@dataclass(frozen=True)
class Repository:
    """Where the definitions are loaded: names that a launch has to give."""

    location: str
    name: str


@dataclass(frozen=True)
class Run:
    """A run and its state: QUEUED, STARTED, SUCCESS, FAILURE, ..."""

    run_id: str
    status: str

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in RUN_ENDED


@dataclass(frozen=True)
class Backfill:
    """A backfill as the daemon left it at its last look.

    Attributes:
        status: REQUESTED until it ends, then COMPLETED_SUCCESS, COMPLETED_FAILED, ...
        partitions: partitions that it was launched for.
        materialized: of these, the materialized ones, over all its assets.
        failed: of these, the failed ones.
        runs: its runs with their present states.
        error: what stopped the backfill itself; empty where nothing did.
    """

    backfill_id: str
    status: str
    partitions: int
    materialized: int
    failed: int
    runs: tuple[Run, ...]
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether the daemon is done with it."""
        return self.status not in BACKFILL_PENDING


@dataclass(frozen=True)
class Partitions:
    """Partition keys of an asset by their state."""

    materialized: tuple[str, ...]
    materializing: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Materialization:
    """One materialization event.

    Attributes:
        run_id: the run that reported it.
        time: seconds since 1970.
        partition: its partition; None for an unpartitioned one.
        metadata: by label; numbers, texts, paths, URLs and parsed JSON. None for other kinds.
        tags: among them `dagster/data_version`.
    """

    run_id: str
    time: float
    partition: str | None
    metadata: Mapping[str, Any] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)

    @property
    def data_version(self) -> str | None:
        """The version that the asset's code gave the data."""
        return self.tags.get("dagster/data_version")


@dataclass(frozen=True)
class Tick:
    """One evaluation of a sensor.

    Attributes:
        time: when it began, in seconds since 1970.
        status: STARTED, SKIPPED where it asked for nothing, SUCCESS, FAILURE.
        error: why it failed; empty where it did not.
    """

    time: float
    status: str
    error: str = ""


class DagsterClient:
    """Calls to one webserver.

    Args:
        url: where it is, without a path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._repository: Repository | None = None

    def execute(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run one operation and return its `data`.

        Raises:
            GraphQLError: no answer within a minute, or an answer with errors.
        """
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(  # noqa: S310 (an http URL of ours)
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            answer = _errors_of(error)
        except OSError as error:
            raise GraphQLError(f"No answer from Dagster's webserver at {self.url}: {error}") from None
        if answer.get("errors"):
            raise GraphQLError("; ".join(str(each["message"]) for each in answer["errors"]))
        data: dict[str, Any] = answer["data"]
        return data

    def repository(self) -> Repository:
        """The first code location's repository.

        Raises:
            GraphQLError: it is still being loaded.
            DefinitionsError: it does not load.
        """
        if self._repository is None:
            workspace = _expect(self.execute(queries.WORKSPACE)["workspaceOrError"], "Workspace")
            entry = workspace["locationEntries"][0]
            if entry["locationOrLoadError"] is None:
                raise GraphQLError(f"The code location {entry['name']} is still being loaded.")
            location = entry["locationOrLoadError"]
            if location["__typename"] == "PythonError":
                raise DefinitionsError(f"{entry['name']} does not load: {_message(location)}")
            self._repository = Repository(entry["name"], location["repositories"][0]["name"])
        return self._repository

    def daemon_heartbeats(self) -> dict[str, float]:
        """When each daemon that the instance needs was last alive, in seconds since 1970; 0 for never."""
        statuses = self.execute(queries.DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return {each["daemonType"]: each["lastHeartbeatTime"] or 0.0 for each in statuses if each["required"]}

    # ------------------------------------------------------------------------------------------------- runs

    def launch_run(self, assets: Iterable[str], *, tags: Mapping[str, str] | None = None) -> str:
        """Ask for one run that materializes unpartitioned assets; its id.

        Raises:
            GraphQLError: the webserver refuses the launch.
        """
        repository = self.repository()
        selector = {
            "repositoryLocationName": repository.location,
            "repositoryName": repository.name,
            "jobName": "__ASSET_JOB",
            "assetSelection": [_key(asset) for asset in assets],
        }
        parameters = {
            "selector": selector,
            "runConfigData": {},
            "executionMetadata": {"tags": _pairs(tags)},
        }
        answer = self.execute(queries.LAUNCH_RUN, {"parameters": parameters})["launchRun"]
        return str(_expect(answer, "LaunchRunSuccess")["run"]["runId"])

    def run(self, run_id: str) -> Run:
        """A run's present state; GraphQLError where there is no such run."""
        answer = _expect(self.execute(queries.RUN, {"run": run_id})["runOrError"], "Run")
        return Run(run_id, answer["status"])

    def run_errors(self, run_id: str) -> list[str]:
        """Messages of the failures in a run's event log, the innermost cause of each."""
        answer = _expect(self.execute(queries.RUN_ERRORS, {"run": run_id})["runOrError"], "Run")
        events = answer["eventConnection"]["events"]
        return [_message(event["error"]) for event in events if event.get("error")]

    def pending_runs(self) -> list[str]:
        """Ids of all runs that have not ended."""
        answer = self.execute(queries.PENDING_RUNS, {"statuses": sorted(RUN_PENDING)})["runsOrError"]
        return [run["runId"] for run in _expect(answer, "Runs")["results"]]

    def terminate_run(self, run_id: str, *, at_once: bool = False) -> None:
        """Ask a run to stop.

        Args:
            run_id: the run.
            at_once: mark it as canceled without waiting for its process, which may be gone.

        Raises:
            GraphQLError: it cannot be stopped.
        """
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if at_once else "SAFE_TERMINATE"
        answer = self.execute(queries.TERMINATE_RUN, {"run": run_id, "policy": policy})["terminateRun"]
        _expect(answer, "TerminateRunSuccess")

    # -------------------------------------------------------------------------------------------- backfills

    def launch_backfill(self, asset: str, partitions: Sequence[str], *, title: str = "") -> str:
        """Ask the daemon for a backfill of an asset's partitions; its id.

        Raises:
            GraphQLError: the webserver refuses the launch.
        """
        parameters = {
            "assetSelection": [_key(asset)],
            "partitionNames": list(partitions),
            "title": title or None,
        }
        answer = self.execute(queries.LAUNCH_BACKFILL, {"parameters": parameters})["launchPartitionBackfill"]
        return str(_expect(answer, "LaunchBackfillSuccess")["backfillId"])

    def backfill(self, backfill_id: str) -> Backfill:
        """A backfill's state; GraphQLError where there is no such backfill."""
        answer = self.execute(queries.BACKFILL, {"backfill": backfill_id})["partitionBackfillOrError"]
        answer = _expect(answer, "PartitionBackfill")
        counts = (answer["assetBackfillData"] or {"assetBackfillStatuses": []})["assetBackfillStatuses"]
        return Backfill(
            backfill_id=backfill_id,
            status=answer["status"],
            partitions=answer["numPartitions"] or 0,
            materialized=sum(each.get("numPartitionsMaterialized", 0) for each in counts),
            failed=sum(each.get("numPartitionsFailed", 0) for each in counts),
            runs=tuple(Run(each["runId"], each["status"]) for each in answer["runs"]),
            error=(answer["error"] or {"message": ""})["message"],
        )

    def reexecute_backfill(self, backfill_id: str) -> str:
        """Ask the daemon for a backfill of those partitions of an ended one that were not materialized; its id.

        Raises:
            GraphQLError: the webserver refuses the launch, also where nothing is left to do.
        """
        parameters = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        answer = self.execute(queries.REEXECUTE_BACKFILL, {"parameters": parameters})["reexecutePartitionBackfill"]
        return str(_expect(answer, "LaunchBackfillSuccess")["backfillId"])

    def pending_backfills(self) -> list[str]:
        """Ids of all backfills that have not ended."""
        answer = self.execute(queries.PENDING_BACKFILLS, {"statuses": sorted(BACKFILL_PENDING)})
        backfills = _expect(answer["partitionBackfillsOrError"], "PartitionBackfills")
        return [backfill["id"] for backfill in backfills["results"]]

    def cancel_backfill(self, backfill_id: str) -> None:
        """Ask the daemon to end a backfill and its runs, at its next look; GraphQLError where it cannot be."""
        answer = self.execute(queries.CANCEL_BACKFILL, {"backfill": backfill_id})["cancelPartitionBackfill"]
        _expect(answer, "CancelBackfillSuccess")

    # ---------------------------------------------------------------------------------------------- sensors

    def start_sensor(self, name: str) -> None:
        """Turn a sensor on, which the daemon evaluates from then on; GraphQLError where there is no such sensor."""
        answer = self.execute(queries.START_SENSOR, {"selector": self._sensor(name)})["startSensor"]
        _expect(answer, "Sensor")

    def sensor_ticks(self, name: str, *, after: float = 0.0) -> list[Tick]:
        """Evaluations of a sensor that began after `after`, in seconds since 1970, the latest first."""
        variables = {"selector": self._sensor(name), "after": after}
        answer = _expect(self.execute(queries.SENSOR_TICKS, variables)["sensorOrError"], "Sensor")
        return [
            Tick(each["timestamp"], each["status"], (each["error"] or {"message": ""})["message"])
            for each in answer["sensorState"]["ticks"]
        ]

    def _sensor(self, name: str) -> dict[str, str]:
        repository = self.repository()
        return {
            "repositoryLocationName": repository.location,
            "repositoryName": repository.name,
            "sensorName": name,
        }

    # ----------------------------------------------------------------------------------------------- assets

    def partition_keys(self, asset: str) -> list[str]:
        """Partition keys of an asset, in their order; GraphQLError where there is no such asset."""
        answer = self.execute(queries.PARTITION_KEYS, {"key": _key(asset)})["assetNodeOrError"]
        return list(_expect(answer, "AssetNode")["partitionKeys"])

    def partitions(self, asset: str) -> Partitions:
        """Partition keys of an asset by state; GraphQLError where there is no such asset."""
        answer = self.execute(queries.PARTITIONS, {"key": _key(asset)})["assetNodeOrError"]
        statuses = _expect(answer, "AssetNode")["assetPartitionStatuses"]
        return Partitions(
            materialized=tuple(statuses["materializedPartitions"]),
            materializing=tuple(statuses["materializingPartitions"]),
            failed=tuple(statuses["failedPartitions"]),
            missing=tuple(statuses["unmaterializedPartitions"]),
        )

    def materializations(
        self, asset: str, *, partitions: Sequence[str] | None = None, after: float = 0.0, limit: int = 10_000
    ) -> list[Materialization]:
        """Materializations of an asset, the latest first.

        Args:
            asset: its key.
            partitions: only of these partitions; None for all.
            after: only later ones, in seconds since 1970.
            limit: at most so many.
        """
        variables = {
            "key": _key(asset),
            "partitions": None if partitions is None else list(partitions),
            "after": str(int(after * 1000)),
            "limit": limit,
        }
        answer = _expect(self.execute(queries.MATERIALIZATIONS, variables)["assetOrError"], "Asset")
        return [_materialization(event) for event in answer["assetMaterializations"]]


def _key(asset: str) -> dict[str, list[str]]:
    return {"path": asset.split("/")}


def _pairs(tags: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in (tags or {}).items()]


def _errors_of(error: urllib.error.HTTPError) -> dict[str, Any]:
    """The answer in the body of a failed request; queries that do not validate come with status 400."""
    try:
        answer: dict[str, Any] = json.load(error)
    except ValueError:
        return {"errors": [{"message": f"HTTP {error.code} {error.reason}"}]}
    return answer


def _expect(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    """`answer` if it is a `kind`, else GraphQLError with the message it carries."""
    if answer["__typename"] != kind:
        raise GraphQLError(f"{answer['__typename']}: {_message(answer)}")
    return answer


def _message(error: dict[str, Any]) -> str:
    """What an error says: the innermost of its causes, where it has some."""
    causes = error.get("causes") or error.get("errors") or [error]
    return str(causes[-1]["message"]).strip()


def _materialization(event: dict[str, Any]) -> Materialization:
    return Materialization(
        run_id=event["runId"],
        time=float(event["timestamp"]) / 1000,
        partition=event["partition"],
        metadata={entry["label"]: _metadata_value(entry) for entry in event["metadataEntries"]},
        tags={tag["key"]: tag["value"] for tag in event["tags"]},
    )


def _metadata_value(entry: dict[str, Any]) -> Any:
    """The one value of a metadata entry. Integers come as text, because GraphQL's end at 32 bits."""
    if "intRepr" in entry:
        return int(entry["intRepr"])
    if "jsonString" in entry:
        return json.loads(entry["jsonString"])
    values = [entry[name] for name in ("text", "floatValue", "boolValue", "path", "url", "mdStr") if name in entry]
    return values[0] if values else None
