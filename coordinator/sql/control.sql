-- Everything the control path asks of Postgres (coordinator/desired.py, assignments.py, lease.py).

-- name: active_accounts
-- Every account that should be streamed; secrets stay where they are.
SELECT id::text, user_id, exchange, market, label, is_testnet, revision, telegram_chat_id,
       (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms,
       credential_ciphertext IS NOT NULL AS has_credentials
FROM exchange_accounts WHERE is_active;

-- name: some_accounts
-- The same, of the accounts a notification named; ids are compared as text, because a payload may be anything.
SELECT id::text, user_id, exchange, market, label, is_testnet, revision, telegram_chat_id,
       (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms,
       credential_ciphertext IS NOT NULL AS has_credentials
FROM exchange_accounts WHERE is_active AND id::text = ANY(%(ids)s);

-- name: next_term
-- A term nobody has led under: the source of fencing tokens (R2).
UPDATE fleet_term SET term = term + 1 RETURNING term;

-- name: assignments
-- The durable copy of ownership, for rebuilding Redis (R10).
SELECT account_id::text, slot, incarnation, token::text, revision, egress_ip,
       (extract(epoch FROM since) * 1000)::bigint AS since_ms
FROM fleet_assignment;

-- name: store_assignments
-- One row per move; a stale leader's row never replaces one under a higher token.
INSERT INTO fleet_assignment (account_id, slot, incarnation, token, since, revision, egress_ip)
SELECT v.account_id::uuid, v.slot, v.incarnation, v.token::numeric, to_timestamp(v.since_ms / 1000.0), v.revision,
       v.egress_ip
FROM (VALUES %s) AS v (account_id, slot, incarnation, token, since_ms, revision, egress_ip)
ON CONFLICT (account_id) DO UPDATE
SET slot = excluded.slot, incarnation = excluded.incarnation, token = excluded.token, since = excluded.since,
    revision = excluded.revision, egress_ip = excluded.egress_ip
WHERE fleet_assignment.token <= excluded.token;

-- name: delete_assignments
-- These accounts have no owner any more.
DELETE FROM fleet_assignment AS a USING (VALUES %s) AS gone (account_id, token)
WHERE a.account_id = gone.account_id::uuid AND a.token <= gone.token::numeric;

-- name: quarantine
-- The last quarantine of each account that ever had one; few rows.
SELECT DISTINCT ON (account_id) account_id::text, incident, revision, reason, cleared_at IS NOT NULL AS cleared
FROM fleet_quarantine ORDER BY account_id, since DESC;

-- name: store_quarantine
-- One row per incident; written again after a lost reply, it changes nothing.
INSERT INTO fleet_quarantine (incident, account_id, revision, reason, since)
VALUES (%(incident)s, %(account_id)s, %(revision)s, %(reason)s, to_timestamp(%(since_ms)s / 1000.0))
ON CONFLICT (incident) DO NOTHING;

-- name: lift_quarantine
-- The account may be tried again: its row has changed or is gone, or the pause is over.
UPDATE fleet_quarantine SET cleared_at = now(), cleared_by = %(why)s
WHERE incident = %(incident)s AND cleared_at IS NULL;
