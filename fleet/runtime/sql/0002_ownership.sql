-- What must outlive Redis (design: ownership.md). Tokens are numeric(20): a 64-bit unsigned number does not fit bigint.

-- The source of fencing tokens: UPDATE fleet_term SET term = term + 1 RETURNING term. Exactly one row.
CREATE TABLE fleet_term (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    term bigint NOT NULL CHECK (term >= 0)
);
INSERT INTO fleet_term (term) VALUES (0);

-- Durable copy of the owners, one write per move.
CREATE TABLE fleet_assignment (
    account_id  uuid PRIMARY KEY,
    slot        text NOT NULL,
    incarnation text NOT NULL,
    token       numeric(20) NOT NULL,
    since       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX fleet_assignment_slot ON fleet_assignment (slot);

-- Second heartbeat path while Redis is away; a row whose fenced_inc equals its incarnation is fenced.
CREATE TABLE fleet_witness (
    slot        text PRIMARY KEY,
    incarnation text NOT NULL,
    beat        bigint NOT NULL DEFAULT 0,
    fenced_inc  text,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- How far each account's stream is safely in Kafka; the next owner's read-back starts there. Written under the owner's token.
CREATE TABLE stream_watermarks (
    account_id uuid PRIMARY KEY,
    token      numeric(20) NOT NULL,
    watermark  jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Notices to users; one per incident for ever (unique), sent by the coordinator's leader.
CREATE TABLE outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id      uuid,
    incident        text NOT NULL UNIQUE,
    chat_id         text,
    text            text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    sent_at         timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error      text
);
CREATE INDEX outbox_due ON outbox (next_attempt_at) WHERE sent_at IS NULL;
