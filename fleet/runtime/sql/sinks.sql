-- Statements of the Postgres sink (workers/sinks/postgres.py). `VALUES %s` stands for a page of rows, all of them text or
-- integers; the casts are here. Ranks (0003_sinks.sql says why): in each upsert DISTINCT ON keeps the highest of the page,
-- WHERE lets it in only over a lower one in the table.

-- name: orders
-- Latest state per order: final over not final, then filled quantity, exchange time, Kafka offset.
INSERT INTO orders AS stored (
    account_id, exchange, market, symbol, order_id, id, client_order_id, side, position_side, order_type, time_in_force,
    status, price, stop_price, qty, filled_qty, avg_price, reduce_only, source, ts_event, ts_recv, kafka_offset)
SELECT DISTINCT ON (account_id, exchange, market, symbol, order_id)
    account_id::uuid, exchange, market, symbol, order_id, id, client_order_id, side, position_side, order_type,
    time_in_force, status, price::numeric, stop_price::numeric, qty::numeric, filled_qty::numeric, avg_price::numeric,
    reduce_only, source, ts_event, ts_recv, kafka_offset
FROM (VALUES %s) AS page (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, kafka_offset, order_id, client_order_id, side,
    position_side, order_type, time_in_force, status, price, stop_price, qty, filled_qty, avg_price, reduce_only)
ORDER BY account_id, exchange, market, symbol, order_id,
    (status IN ('filled', 'canceled', 'rejected', 'expired')) DESC, filled_qty::numeric DESC, ts_event DESC,
    kafka_offset DESC
ON CONFLICT (account_id, exchange, market, symbol, order_id) DO UPDATE SET
    id = EXCLUDED.id, client_order_id = EXCLUDED.client_order_id, side = EXCLUDED.side,
    position_side = EXCLUDED.position_side, order_type = EXCLUDED.order_type, time_in_force = EXCLUDED.time_in_force,
    status = EXCLUDED.status, price = EXCLUDED.price, stop_price = EXCLUDED.stop_price, qty = EXCLUDED.qty,
    filled_qty = EXCLUDED.filled_qty, avg_price = EXCLUDED.avg_price, reduce_only = EXCLUDED.reduce_only,
    source = EXCLUDED.source, ts_event = EXCLUDED.ts_event, ts_recv = EXCLUDED.ts_recv,
    kafka_offset = EXCLUDED.kafka_offset
WHERE (EXCLUDED.final, EXCLUDED.filled_qty, EXCLUDED.ts_event, EXCLUDED.kafka_offset)
    > (stored.final, stored.filled_qty, stored.ts_event, stored.kafka_offset);

-- name: order_history
-- Every state of every order once.
INSERT INTO order_history (
    id, account_id, exchange, market, symbol, order_id, status, price, qty, filled_qty, avg_price, source, ts_event,
    ts_recv, kafka_offset)
SELECT id, account_id::uuid, exchange, market, symbol, order_id, status, price::numeric, qty::numeric,
    filled_qty::numeric, avg_price::numeric, source, ts_event, ts_recv, kafka_offset
FROM (VALUES %s) AS page (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, kafka_offset, order_id, client_order_id, side,
    position_side, order_type, time_in_force, status, price, stop_price, qty, filled_qty, avg_price, reduce_only)
ON CONFLICT DO NOTHING;

-- name: fills
-- Every execution once, by event id and by (account, exchange, market, symbol, trade, order).
INSERT INTO fills (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, trade_id, order_id, client_order_id, side,
    position_side, price, qty, fee, fee_asset, liquidity, realized_pnl)
SELECT id, account_id::uuid, exchange, market, symbol, ts_event, ts_recv, source, trade_id, order_id, client_order_id,
    side, position_side, price::numeric, qty::numeric, fee::numeric, fee_asset, liquidity, realized_pnl::numeric
FROM (VALUES %s) AS page (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, trade_id, order_id, client_order_id, side,
    position_side, price, qty, fee, fee_asset, liquidity, realized_pnl)
ON CONFLICT DO NOTHING;

-- name: positions
-- Latest state per position (0040_position_modes.sql says what names one). Of one instant the socket's word counts: REST may
-- lag and tell an older state under a newer time.
INSERT INTO positions AS stored (
    account_id, exchange, market, symbol, position_side, mode_key, id, qty, entry_price, unrealized_pnl, margin_mode,
    source, ts_event, ts_recv, kafka_offset)
SELECT DISTINCT ON (account_id, exchange, market, symbol, position_side, mode_key)
    account_id::uuid, exchange, market, symbol, position_side, mode_key, id, qty::numeric, entry_price::numeric,
    unrealized_pnl::numeric, margin_mode, source, ts_event, ts_recv, kafka_offset
FROM (VALUES %s) AS page (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, kafka_offset, position_side, qty, entry_price,
    unrealized_pnl, margin_mode, mode_key)
ORDER BY account_id, exchange, market, symbol, position_side, mode_key, ts_event DESC, source = 'stream' DESC,
    kafka_offset DESC
ON CONFLICT (account_id, exchange, market, symbol, position_side, mode_key) DO UPDATE SET
    id = EXCLUDED.id, qty = EXCLUDED.qty, entry_price = EXCLUDED.entry_price, unrealized_pnl = EXCLUDED.unrealized_pnl,
    margin_mode = EXCLUDED.margin_mode, source = EXCLUDED.source, ts_event = EXCLUDED.ts_event,
    ts_recv = EXCLUDED.ts_recv, kafka_offset = EXCLUDED.kafka_offset
WHERE (EXCLUDED.ts_event, EXCLUDED.source = 'stream', EXCLUDED.kafka_offset)
    > (stored.ts_event, stored.source = 'stream', stored.kafka_offset);

-- name: balances
-- Latest state per asset; the socket's word as for positions.
INSERT INTO balances AS stored (
    account_id, exchange, market, asset, id, wallet, available, source, ts_event, ts_recv, kafka_offset)
SELECT DISTINCT ON (account_id, exchange, market, asset)
    account_id::uuid, exchange, market, asset, id, wallet::numeric, available::numeric, source, ts_event, ts_recv,
    kafka_offset
FROM (VALUES %s) AS page (
    id, account_id, exchange, market, symbol, ts_event, ts_recv, source, kafka_offset, asset, wallet, available)
ORDER BY account_id, exchange, market, asset, ts_event DESC, source = 'stream' DESC, kafka_offset DESC
ON CONFLICT (account_id, exchange, market, asset) DO UPDATE SET
    id = EXCLUDED.id, wallet = EXCLUDED.wallet, available = EXCLUDED.available, source = EXCLUDED.source,
    ts_event = EXCLUDED.ts_event, ts_recv = EXCLUDED.ts_recv, kafka_offset = EXCLUDED.kafka_offset
WHERE (EXCLUDED.ts_event, EXCLUDED.source = 'stream', EXCLUDED.kafka_offset)
    > (stored.ts_event, stored.source = 'stream', stored.kafka_offset);

-- name: account_events
-- Every other event of the private stream once.
INSERT INTO account_events (id, account_id, exchange, market, symbol, ts_event, ts_recv, source, event, data)
SELECT id, account_id::uuid, exchange, market, symbol, ts_event, ts_recv, source, event, data::jsonb
FROM (VALUES %s) AS page (id, account_id, exchange, market, symbol, ts_event, ts_recv, source, event, data)
ON CONFLICT DO NOTHING;

-- name: stream_gaps
-- One row per gap; what closed it stays, whichever of the two events comes last or again.
INSERT INTO stream_gaps AS stored (
    id, account_id, stream, exchange, market, opened_at, closed_at, reason, recovered_events, recoverable)
SELECT DISTINCT ON (id)
    id, account_id::uuid, stream, exchange, market, to_timestamp(opened_ms / 1000.0),
    to_timestamp(closed_ms::bigint / 1000.0), reason, recovered_events, recoverable
FROM (VALUES %s) AS page (
    id, account_id, stream, exchange, market, opened_ms, closed_ms, reason, recovered_events, recoverable, complete_to_ms)
ORDER BY id, closed_ms::bigint DESC NULLS LAST
ON CONFLICT (id) DO UPDATE SET
    closed_at = EXCLUDED.closed_at, reason = EXCLUDED.reason, recovered_events = EXCLUDED.recovered_events,
    recoverable = EXCLUDED.recoverable
WHERE EXCLUDED.closed_at IS NOT NULL AND (stored.closed_at IS NULL OR EXCLUDED.closed_at > stored.closed_at);

-- name: superseded_gaps
-- A stream that is complete up to a gap's end has no gap open that began before: whoever opened it died or lost the account, and the next owner read back from a watermark that lies before both.
UPDATE stream_gaps AS older
SET closed_at = later.closed_at, recoverable = older.recoverable AND later.recoverable
FROM (
    SELECT stored.id, min(to_timestamp(page.closed_ms::bigint / 1000.0)) AS closed_at,
        (array_agg(page.recoverable ORDER BY page.closed_ms::bigint))[1] AS recoverable
    FROM (VALUES %s) AS page (
        id, account_id, stream, exchange, market, opened_ms, closed_ms, reason, recovered_events, recoverable, complete_to_ms)
    JOIN stream_gaps AS stored USING (exchange, market, stream)
    WHERE page.closed_ms IS NOT NULL AND stored.closed_at IS NULL AND stored.id <> page.id
      AND stored.opened_at < to_timestamp(page.complete_to_ms::bigint / 1000.0)
    GROUP BY stored.id
) AS later
WHERE older.id = later.id;

-- name: dead_letter
-- Put records aside; its place in the topic and its bytes identify a record.
INSERT INTO dead_letter (sink, topic, partition, "offset", key, value, headers, reason)
SELECT sink, topic, partition, "offset", key::bytea, value::bytea, headers::jsonb, reason
FROM (VALUES %s) AS page (sink, topic, partition, "offset", key, value, headers, reason)
ON CONFLICT DO NOTHING;
