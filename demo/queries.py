"""What the client asks Dagster's webserver: GraphQL operations."""

WORKSPACE = """
query Workspace { workspaceOrError {
  __typename
  ... on Error { message }
  ... on Workspace { locationEntries {
    name
    locationOrLoadError {
      __typename
      ... on PythonError { message causes { message } }
      ... on RepositoryLocation { repositories { name } }
    }
  } }
} }
"""

DAEMONS = """
query Daemons { instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }
"""

LAUNCH_RUN = """
mutation LaunchRun($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
  __typename ... on Error { message }
  ... on LaunchRunSuccess { run { runId } }
  ... on RunConfigValidationInvalid { errors { message } }
} }
"""

RUN = """
query Run($run: ID!) { runOrError(runId: $run) { __typename ... on Error { message } ... on Run { status } } }
"""

RUN_ERRORS = """
query RunErrors($run: ID!) { runOrError(runId: $run) { __typename ... on Error { message } ... on Run {
  eventConnection(limit: 1000) { events {
    ... on ExecutionStepFailureEvent { error { message causes { message } } }
    ... on RunFailureEvent { error { message causes { message } } }
  } }
} } }
"""

PENDING_RUNS = """
query PendingRuns($statuses: [RunStatus!]!) { runsOrError(filter: {statuses: $statuses}) {
  __typename ... on Error { message } ... on Runs { results { runId } }
} }
"""

TERMINATE_RUN = """
mutation TerminateRun($run: String!, $policy: TerminateRunPolicy) {
  terminateRun(runId: $run, terminatePolicy: $policy) {
    __typename ... on Error { message } ... on TerminateRunFailure { message }
  }
}
"""

REEXECUTE_BACKFILL = """
mutation ReexecuteBackfill($parameters: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $parameters) {
    __typename
    ... on Error { message }
    ... on LaunchBackfillSuccess { backfillId }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""

START_SENSOR = """
mutation StartSensor($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on Error { message } }
}
"""

SENSOR_TICKS = """
query SensorTicks($selector: SensorSelector!, $after: Float) { sensorOrError(sensorSelector: $selector) {
  __typename ... on Error { message }
  ... on Sensor { sensorState { ticks(afterTimestamp: $after) { timestamp status error { message } } } }
} }
"""

LAUNCH_BACKFILL = """
mutation LaunchBackfill($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on Error { message }
    ... on LaunchBackfillSuccess { backfillId }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""

BACKFILL = """
query Backfill($backfill: String!) { partitionBackfillOrError(backfillId: $backfill) {
  __typename ... on Error { message }
  ... on PartitionBackfill {
    status
    numPartitions
    error { message }
    runs(limit: 1000) { runId status }
    assetBackfillData { assetBackfillStatuses {
      ... on AssetPartitionsStatusCounts { numPartitionsMaterialized numPartitionsFailed }
    } }
  }
} }
"""

PENDING_BACKFILLS = """
query PendingBackfills($statuses: [BulkActionStatus!]!) {
  partitionBackfillsOrError(filters: {statuses: $statuses}) {
    __typename ... on Error { message } ... on PartitionBackfills { results { id } }
  }
}
"""

CANCEL_BACKFILL = """
mutation CancelBackfill($backfill: String!) { cancelPartitionBackfill(backfillId: $backfill) {
  __typename ... on Error { message }
} }
"""

PARTITION_KEYS = """
query PartitionKeys($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
  __typename ... on Error { message } ... on AssetNode { partitionKeys }
} }
"""

PARTITIONS = """
query Partitions($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
  __typename ... on Error { message }
  ... on AssetNode { assetPartitionStatuses { ... on DefaultPartitionStatuses {
    materializedPartitions materializingPartitions failedPartitions unmaterializedPartitions
  } } }
} }
"""

MATERIALIZATIONS = """
query Materializations($key: AssetKeyInput!, $partitions: [String!], $after: String, $limit: Int) {
  assetOrError(assetKey: $key) {
    __typename ... on Error { message }
    ... on Asset {
      assetMaterializations(partitions: $partitions, afterTimestampMillis: $after, limit: $limit) {
        runId
        timestamp
        partition
        tags { key value }
        metadataEntries {
          label
          ... on IntMetadataEntry { intRepr }
          ... on FloatMetadataEntry { floatValue }
          ... on TextMetadataEntry { text }
          ... on BoolMetadataEntry { boolValue }
          ... on PathMetadataEntry { path }
          ... on UrlMetadataEntry { url }
          ... on MarkdownMetadataEntry { mdStr }
          ... on JsonMetadataEntry { jsonString }
        }
      }
    }
  }
}
"""
