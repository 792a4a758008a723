-- How far each public series is safely in Kafka: the market-data process resumes there after a restart (workers/market_watermarks.py).
CREATE TABLE market_watermarks (
    exchange   text NOT NULL,
    market     text NOT NULL,
    symbol     text NOT NULL,
    kind       text NOT NULL,  -- trade or kline
    interval   text NOT NULL,  -- of candles, else empty
    last_id    text NOT NULL,  -- a trade's id, or a candle's close time in ms
    at_ms      bigint NOT NULL,  -- exchange clock, 0 = not known
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (exchange, market, symbol, kind, interval)
);
