-- The accounts the fleet streams. Written by `fleet accounts …` and by operators; read by coordinator and workers.
-- Credentials are ciphertext only (fleet/runtime/secrets.py); the key that opens them is in the keyring, not in the database.
-- user_id and telegram_chat_id are text: both are other systems' ids.
CREATE TABLE exchange_accounts (
    id                    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id               text NOT NULL,
    exchange              text NOT NULL,
    market                text NOT NULL,
    label                 text NOT NULL DEFAULT '',
    is_testnet            boolean NOT NULL DEFAULT false,
    is_active             boolean NOT NULL DEFAULT true,
    deactivated_reason    text,
    deactivated_at        timestamptz,
    telegram_chat_id      text,
    credential_key_id     text,
    credential_ciphertext bytea,
    revision              bigint NOT NULL DEFAULT 1,  -- grows when the stream needs a new socket
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, exchange, market, label),
    CONSTRAINT exchange_accounts_venue CHECK (
        (exchange = 'binance' AND market IN ('usdm', 'spot'))
        OR (exchange IN ('bybit', 'okx') AND market = 'unified')
    ),
    CONSTRAINT exchange_accounts_credentials CHECK ((credential_key_id IS NULL) = (credential_ciphertext IS NULL))
);
CREATE INDEX exchange_accounts_active ON exchange_accounts (id) WHERE is_active;

-- `revision` and `updated_at` belong to the database, whoever writes the row.
CREATE FUNCTION exchange_accounts_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    NEW.revision := OLD.revision;
    IF (NEW.exchange, NEW.market, NEW.is_testnet) IS DISTINCT FROM (OLD.exchange, OLD.market, OLD.is_testnet)
       OR (NEW.credential_key_id, NEW.credential_ciphertext)
          IS DISTINCT FROM (OLD.credential_key_id, OLD.credential_ciphertext)
       OR (NEW.is_active AND NOT OLD.is_active)
    THEN
        NEW.revision := OLD.revision + 1;
    END IF;
    IF NEW.is_active AND NOT OLD.is_active THEN
        NEW.deactivated_reason := NULL;
        NEW.deactivated_at := NULL;
    ELSIF OLD.is_active AND NOT NEW.is_active AND NEW.deactivated_at IS NOT DISTINCT FROM OLD.deactivated_at THEN
        NEW.deactivated_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER exchange_accounts_touch BEFORE UPDATE ON exchange_accounts
    FOR EACH ROW EXECUTE FUNCTION exchange_accounts_touch();

-- The payload is the account's id; empty after TRUNCATE. It only shortens the wait: the reconcile tick is the truth (R15).
CREATE FUNCTION exchange_accounts_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('exchange_accounts_changed', '');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('exchange_accounts_changed', OLD.id::text);
    ELSE
        PERFORM pg_notify('exchange_accounts_changed', NEW.id::text);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER exchange_accounts_notify AFTER INSERT OR UPDATE OR DELETE ON exchange_accounts
    FOR EACH ROW EXECUTE FUNCTION exchange_accounts_notify();
CREATE TRIGGER exchange_accounts_notify_all AFTER TRUNCATE ON exchange_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION exchange_accounts_notify();
