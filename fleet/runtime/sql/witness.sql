-- The second heartbeat path (R5d, R9): used by workers/heartbeat.py while Redis is away and by the coordinator before a verdict.

-- name: beat
-- A worker without Redis says that it lives; no row comes back if this incarnation was fenced.
INSERT INTO fleet_witness (slot, incarnation, beat, updated_at)
VALUES (%(slot)s, %(incarnation)s, 1, clock_timestamp())
ON CONFLICT (slot) DO UPDATE
SET incarnation = excluded.incarnation, beat = fleet_witness.beat + 1, updated_at = clock_timestamp()
WHERE fleet_witness.fenced_inc IS DISTINCT FROM excluded.incarnation
RETURNING beat;

-- name: age
-- How long ago these incarnations were last seen by the witness, by Postgres' own clock.
SELECT slot, incarnation, beat, fenced_inc,
       extract(epoch FROM clock_timestamp() - updated_at)::float8 AS age_s
FROM fleet_witness WHERE slot = ANY(%(slots)s);

-- name: writable
-- Could a worker beat here? Not on a standby, nor while the database is set to read only.
SELECT current_setting('transaction_read_only') = 'off' AS writable;

-- name: fence
-- The leader's verdict, also for a worker that only sees Postgres.
INSERT INTO fleet_witness (slot, incarnation, beat, fenced_inc, updated_at)
VALUES (%(slot)s, %(incarnation)s, 0, %(incarnation)s, to_timestamp(0))
ON CONFLICT (slot) DO UPDATE SET fenced_inc = excluded.fenced_inc;
