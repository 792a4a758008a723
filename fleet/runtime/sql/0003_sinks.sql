-- What the Postgres sink writes from Kafka (workers/sinks/postgres.py).
--
-- Types: prices and quantities are `numeric` without precision: exact, and "0.020" keeps its zeros. A value the exchange
-- did not tell ("" or null in the event) is NULL. Ids are text. ts_event (exchange clock) and ts_recv (ours) are UNIX
-- milliseconds as in the event; event_at is ts_event for people.
--
-- Idempotency: `id` is the event's deterministic id. `fills`, `account_events` and `order_history` hold one row per event,
-- so a repeated event changes nothing. `orders`, `positions` and `balances` hold the latest state of one order, position or
-- balance and the id of the event that told it; a state replaces another only if it ranks higher, so that repeats and late,
-- older events (a read-back by REST) change nothing. Rank: an order's final state (filled, canceled, rejected, expired)
-- over any other, then filled_qty, then ts_event; a position's or balance's ts_event. Equal so far, the later Kafka offset
-- wins: an account's records are in one partition, in order.

CREATE TABLE orders (
    account_id      uuid NOT NULL,
    exchange        text NOT NULL,
    market          text NOT NULL,
    symbol          text NOT NULL,
    order_id        text NOT NULL,
    id              text NOT NULL UNIQUE,
    client_order_id text NOT NULL,
    side            text NOT NULL CHECK (side IN ('buy', 'sell')),
    position_side   text NOT NULL,
    order_type      text NOT NULL,
    time_in_force   text NOT NULL,
    status          text NOT NULL
        CHECK (status IN ('new', 'partially_filled', 'filled', 'canceled', 'rejected', 'expired')),
    final           boolean NOT NULL GENERATED ALWAYS AS (status IN ('filled', 'canceled', 'rejected', 'expired')) STORED,
    price           numeric,
    stop_price      numeric,
    qty             numeric,
    filled_qty      numeric NOT NULL DEFAULT 0,
    avg_price       numeric,
    reduce_only     boolean NOT NULL,
    source          text NOT NULL CHECK (source IN ('stream', 'rest')),
    ts_event        bigint NOT NULL,
    ts_recv         bigint NOT NULL,
    event_at        timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED,
    kafka_offset    bigint NOT NULL,
    PRIMARY KEY (account_id, exchange, market, symbol, order_id)
);
CREATE INDEX orders_open ON orders (account_id) WHERE NOT final;

CREATE TABLE order_history (
    id           text PRIMARY KEY,
    account_id   uuid NOT NULL,
    exchange     text NOT NULL,
    market       text NOT NULL,
    symbol       text NOT NULL,
    order_id     text NOT NULL,
    status       text NOT NULL,
    price        numeric,
    qty          numeric,
    filled_qty   numeric NOT NULL,
    avg_price    numeric,
    source       text NOT NULL,
    ts_event     bigint NOT NULL,
    ts_recv      bigint NOT NULL,
    event_at     timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED,
    kafka_offset bigint NOT NULL
);
CREATE INDEX order_history_order ON order_history (account_id, order_id, ts_event);

CREATE TABLE fills (
    id              text PRIMARY KEY,
    account_id      uuid NOT NULL,
    exchange        text NOT NULL,
    market          text NOT NULL,
    symbol          text NOT NULL,
    trade_id        text NOT NULL,
    order_id        text NOT NULL,
    client_order_id text NOT NULL,
    side            text NOT NULL CHECK (side IN ('buy', 'sell')),
    position_side   text NOT NULL,
    price           numeric NOT NULL,
    qty             numeric NOT NULL,
    fee             numeric,
    fee_asset       text NOT NULL,
    liquidity       text NOT NULL CHECK (liquidity IN ('maker', 'taker')),
    realized_pnl    numeric,
    source          text NOT NULL CHECK (source IN ('stream', 'rest')),
    ts_event        bigint NOT NULL,
    ts_recv         bigint NOT NULL,
    event_at        timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED,
    UNIQUE (account_id, exchange, market, symbol, trade_id, order_id)
);
CREATE INDEX fills_time ON fills (account_id, ts_event);

CREATE TABLE positions (
    account_id     uuid NOT NULL,
    exchange       text NOT NULL,
    market         text NOT NULL,
    symbol         text NOT NULL,
    position_side  text NOT NULL,
    id             text NOT NULL,
    qty            numeric NOT NULL,
    entry_price    numeric,
    unrealized_pnl numeric,
    margin_mode    text NOT NULL,
    source         text NOT NULL CHECK (source IN ('stream', 'rest')),
    ts_event       bigint NOT NULL,
    ts_recv        bigint NOT NULL,
    event_at       timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED,
    kafka_offset   bigint NOT NULL,
    PRIMARY KEY (account_id, exchange, market, symbol, position_side)
);

CREATE TABLE balances (
    account_id   uuid NOT NULL,
    exchange     text NOT NULL,
    market       text NOT NULL,
    asset        text NOT NULL,
    id           text NOT NULL,
    wallet       numeric NOT NULL,
    available    numeric,
    source       text NOT NULL CHECK (source IN ('stream', 'rest')),
    ts_event     bigint NOT NULL,
    ts_recv      bigint NOT NULL,
    event_at     timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED,
    kafka_offset bigint NOT NULL,
    PRIMARY KEY (account_id, exchange, market, asset)
);

CREATE TABLE account_events (
    id         text PRIMARY KEY,
    account_id uuid NOT NULL,
    exchange   text NOT NULL,
    market     text NOT NULL,
    symbol     text NOT NULL,
    event      text NOT NULL,
    data       jsonb NOT NULL,
    source     text NOT NULL CHECK (source IN ('stream', 'rest')),
    ts_event   bigint NOT NULL,
    ts_recv    bigint NOT NULL,
    event_at   timestamptz GENERATED ALWAYS AS (to_timestamp(ts_event / 1000.0)) STORED
);
CREATE INDEX account_events_time ON account_events (account_id, ts_event);

-- One row per gap, from fleet.streams gap_opened and gap_closed. account_id is NULL for a market stream's gap.
CREATE TABLE stream_gaps (
    id               text PRIMARY KEY,
    account_id       uuid,
    stream           text NOT NULL,
    exchange         text NOT NULL,
    market           text NOT NULL,
    opened_at        timestamptz NOT NULL,
    closed_at        timestamptz,
    reason           text NOT NULL DEFAULT '',
    recovered_events integer NOT NULL DEFAULT 0,
    recoverable      boolean NOT NULL DEFAULT true
);
CREATE INDEX stream_gaps_account ON stream_gaps (account_id, opened_at);
CREATE INDEX stream_gaps_open ON stream_gaps (opened_at) WHERE closed_at IS NULL;

-- Records a sink could not store, with the reason; written by both sinks where Postgres is configured.
CREATE TABLE dead_letter (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sink        text NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    key         bytea,
    value       bytea,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    retried_at  timestamptz,
    UNIQUE (sink, topic, partition, "offset")
);
