-- name: insert_account
-- One new active account; no row comes back if the user already has one of that exchange, market and label.
INSERT INTO exchange_accounts (id, user_id, exchange, market, label, is_testnet, is_active, telegram_chat_id,
                               credential_key_id, credential_ciphertext)
VALUES (%(id)s, %(user_id)s, %(exchange)s, %(market)s, %(label)s, %(is_testnet)s, true, %(telegram_chat_id)s,
        %(key_id)s, %(ciphertext)s)
ON CONFLICT (user_id, exchange, market, label) DO NOTHING
RETURNING id;

-- name: list_accounts
-- Every account, oldest first, without its ciphertext.
SELECT id, user_id, exchange, market, label, is_testnet, is_active, deactivated_reason, deactivated_at, telegram_chat_id,
       created_at, updated_at
FROM exchange_accounts ORDER BY created_at, id;

-- name: show_account
-- One account, without its ciphertext but with the id of the key that encrypts it.
SELECT id, user_id, exchange, market, label, is_testnet, is_active, deactivated_reason, deactivated_at, telegram_chat_id,
       revision, credential_key_id, created_at, updated_at
FROM exchange_accounts WHERE id = %(id)s;

-- name: activate_account
-- The account streams again and the reason it had stopped for is forgotten.
UPDATE exchange_accounts SET is_active = true, deactivated_reason = NULL, deactivated_at = NULL, updated_at = now()
WHERE id = %(id)s;

-- name: clear_quarantine
-- The account may be started again, whatever its start did before (R13).
UPDATE fleet_quarantine SET cleared_at = now(), cleared_by = 'operator' WHERE account_id = %(id)s AND cleared_at IS NULL;

-- name: quarantine_of
-- Why the account is not started, if it is not: a quarantine is of one revision of its row. That a changed or removed row ended it may
-- be written down by nobody, where no coordinator led at the time.
SELECT q.reason, q.since FROM fleet_quarantine AS q JOIN exchange_accounts AS a ON a.id = q.account_id
WHERE q.account_id = %(id)s AND q.cleared_at IS NULL AND q.revision IN (a.revision, -1) ORDER BY q.since DESC LIMIT 1;

-- name: quarantined
-- All accounts that are not started because their start killed workers.
SELECT q.account_id, q.reason, q.since FROM fleet_quarantine AS q JOIN exchange_accounts AS a ON a.id = q.account_id
WHERE q.cleared_at IS NULL AND q.revision IN (a.revision, -1) ORDER BY q.since;

-- name: durable_owners
-- The durable copy of ownership, of one slot or one account, or all: what is left to read while Redis is away.
SELECT account_id::text, slot, incarnation, token::text, egress_ip, (extract(epoch FROM since) * 1000)::bigint AS since_ms
FROM fleet_assignment
WHERE (%(slot)s::text IS NULL OR slot = %(slot)s) AND (%(id)s::uuid IS NULL OR account_id = %(id)s::uuid)
ORDER BY account_id;

-- name: deactivate_account
-- The account stops streaming; an account that is inactive already keeps the time it stopped at.
UPDATE exchange_accounts SET is_active = false, deactivated_reason = %(reason)s,
       deactivated_at = COALESCE(CASE WHEN is_active THEN NULL ELSE deactivated_at END, now()), updated_at = now()
WHERE id = %(id)s;

-- name: set_credentials
-- New ciphertext; the trigger bumps `revision`, which makes the fleet open a new socket.
UPDATE exchange_accounts SET credential_key_id = %(key_id)s, credential_ciphertext = %(ciphertext)s, updated_at = now()
WHERE id = %(id)s;

-- name: remove_account
-- The row and with it the stream; what the sinks stored of the account stays.
DELETE FROM exchange_accounts WHERE id = %(id)s;

-- name: ciphertexts
-- What `fleet doctor` tries to decrypt.
SELECT id, credential_key_id, credential_ciphertext FROM exchange_accounts ORDER BY created_at, id;

-- name: list_gaps
-- Gaps of all streams, newest first; `open_only` and `since` narrow it. Nobody can close a gap of an account that was removed: it
-- is kept, but not called open.
SELECT account_id, stream, exchange, market, opened_at, closed_at, reason, recovered_events, recoverable
FROM stream_gaps
WHERE (NOT %(open_only)s OR closed_at IS NULL AND (
        account_id IS NULL OR account_id IN (SELECT id FROM exchange_accounts)))
  AND (%(since)s::timestamptz IS NULL OR COALESCE(closed_at, now()) >= %(since)s::timestamptz)
ORDER BY opened_at DESC LIMIT %(most)s;
