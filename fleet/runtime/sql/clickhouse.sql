-- Market tables of ClickHouse (engine in the sink process, or a server). Run in this order by fleet.runtime.clickhouse.
--
-- Prices and sizes are String: the exact text the exchange sent; `<name>_decimal` computes a Decimal(38, 18) on reading and
-- costs no space. ReplacingMergeTree keyed by id: an event stored twice (a repeated batch) is one row after a merge, and
-- at once with FINAL or uniqExact(id). The time in front of the id only makes reads by symbol and time cheap; for candles it
-- is open_time, because the same candle re-read by REST has another ts_event. TTL counts from storing, so that replayed
-- captures of the past stay. {ttl_days} and {book_ttl_days} are settings (books and tickers are many and age fast).
-- A part is synced to disk before its Kafka offsets are committed (fsync_after_insert).

-- name: market_trades
-- Public trades.
CREATE TABLE IF NOT EXISTS market_trades (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    trade_id String, price String, qty String, side LowCardinality(String),
    price_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(price, 18),
    qty_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(qty, 18),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(ts_event, 'UTC'))
ORDER BY (exchange, market, symbol, ts_event, id)
TTL stored_at + INTERVAL {ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- name: market_klines
-- Candles as they stand; `closed` is true once per candle.
CREATE TABLE IF NOT EXISTS market_klines (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    `interval` LowCardinality(String), open_time Int64 CODEC(Delta, ZSTD), close_time Int64 CODEC(Delta, ZSTD),
    open String, high String, low String, close String, volume String, closed Bool,
    close_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(close, 18),
    volume_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(volume, 18),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (exchange, market, symbol, interval, open_time, id)
TTL stored_at + INTERVAL {ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- name: market_tickers
-- 24 h tickers and best bid and ask; NULL where the message did not carry the field.
CREATE TABLE IF NOT EXISTS market_tickers (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    last Nullable(String), bid Nullable(String), bid_qty Nullable(String), ask Nullable(String),
    ask_qty Nullable(String), open_24h Nullable(String), high_24h Nullable(String), low_24h Nullable(String),
    volume_24h Nullable(String), quote_volume_24h Nullable(String),
    last_decimal Nullable(Decimal(38, 18)) ALIAS toDecimal128OrNull(last, 18),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(ts_event, 'UTC'))
ORDER BY (exchange, market, symbol, ts_event, id)
TTL stored_at + INTERVAL {book_ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- name: market_depth
-- Order-book messages: [price, absolute quantity] pairs, "0" deletes; sequence numbers as the venue counts.
CREATE TABLE IF NOT EXISTS market_depth (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    kind LowCardinality(String), bids Array(Tuple(String, String)), asks Array(Tuple(String, String)),
    first_seq Int64, last_seq Int64, prev_seq Nullable(Int64),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(ts_event, 'UTC'))
ORDER BY (exchange, market, symbol, ts_event, id)
TTL stored_at + INTERVAL {book_ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- name: market_liquidations
-- `side` is that of the liquidation order: sell = a long was liquidated.
CREATE TABLE IF NOT EXISTS market_liquidations (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    side LowCardinality(String), price String, qty String,
    price_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(price, 18),
    qty_decimal Decimal(38, 18) ALIAS toDecimal128OrZero(qty, 18),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(ts_event, 'UTC'))
ORDER BY (exchange, market, symbol, ts_event, id)
TTL stored_at + INTERVAL {ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- name: market_mark_prices
-- Mark and index price, funding; next_funding in ms.
CREATE TABLE IF NOT EXISTS market_mark_prices (
    id String, exchange LowCardinality(String), market LowCardinality(String), symbol LowCardinality(String),
    ts_event Int64 CODEC(Delta, ZSTD), ts_recv Int64 CODEC(Delta, ZSTD), source LowCardinality(String),
    mark Nullable(String), `index` Nullable(String), funding_rate Nullable(String), next_funding Nullable(Int64),
    mark_decimal Nullable(Decimal(38, 18)) ALIAS toDecimal128OrNull(mark, 18),
    event_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts_event, 'UTC'),
    stored_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(ts_event, 'UTC'))
ORDER BY (exchange, market, symbol, ts_event, id)
TTL stored_at + INTERVAL {ttl_days} DAY SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
