-- Accounts whose start killed workers (R13): not started until the row is cleared, whoever leads. The leader writes `since`,
-- an operator (`fleet accounts activate`) or a change of the account's row clears it; cleared rows are the history.
CREATE TABLE fleet_quarantine (
    incident   text PRIMARY KEY,
    account_id uuid NOT NULL,
    revision   bigint NOT NULL,  -- of the account's row that was started
    reason     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz,
    cleared_by text
);
CREATE INDEX fleet_quarantine_account ON fleet_quarantine (account_id, since DESC);

-- Coordinators read the account anew, as after any other change of it.
CREATE FUNCTION fleet_quarantine_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('exchange_accounts_changed', NEW.account_id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER fleet_quarantine_notify AFTER INSERT OR UPDATE ON fleet_quarantine
    FOR EACH ROW EXECUTE FUNCTION fleet_quarantine_notify();
