-- How far public trades and candles are safely in Kafka; read and written by workers/market_watermarks.py.

-- name: load
-- Those a process may resume from: not where for a week no process had the series. Whoever has it saves its mark each hour, moved
-- or not, so a symbol that is taken up again after long begins anew, and one that did not trade for long does not.
SELECT exchange, market, symbol, kind, interval, last_id, at_ms
FROM market_watermarks WHERE updated_at > now() - interval '7 days';

-- name: save
-- May also move back: something was found missing.
INSERT INTO market_watermarks (exchange, market, symbol, kind, interval, last_id, at_ms)
VALUES %s
ON CONFLICT (exchange, market, symbol, kind, interval) DO UPDATE
SET last_id = excluded.last_id, at_ms = excluded.at_ms, updated_at = now();
