-- name: accounts
-- How many accounts there are and how many should be streaming.
SELECT count(*) AS total, count(*) FILTER (WHERE is_active) AS active FROM exchange_accounts;

-- name: open_gaps
-- Gaps that are open now, oldest first.
SELECT account_id, stream, opened_at, reason FROM stream_gaps WHERE closed_at IS NULL
    AND (account_id IS NULL OR account_id IN (SELECT id FROM exchange_accounts))
ORDER BY opened_at LIMIT 50;

-- name: gap_counts
-- Gaps of the last 24 hours: how many, still open, not recoverable in full.
SELECT count(*) AS opened, count(*) FILTER (WHERE closed_at IS NULL
    AND (account_id IS NULL OR account_id IN (SELECT id FROM exchange_accounts))) AS open,
       count(*) FILTER (WHERE NOT recoverable) AS unrecoverable,
       COALESCE(sum(recovered_events), 0) AS recovered_events
FROM stream_gaps WHERE opened_at > now() - interval '24 hours';

-- name: moves
-- The last changes of ownership (fleet_assignment has one write per move).
SELECT account_id, slot, incarnation, since FROM fleet_assignment ORDER BY since DESC LIMIT 20;

-- name: deactivations
-- Accounts that were switched off, latest first, and why.
SELECT id, exchange, market, label, deactivated_reason, deactivated_at FROM exchange_accounts
WHERE NOT is_active AND deactivated_at IS NOT NULL ORDER BY deactivated_at DESC LIMIT 20;
