-- name: load_account
-- One account with its ciphertext and watermark, as the worker that will stream it needs it; inactive rows too.
SELECT a.id, a.user_id, a.exchange, a.market, a.label, a.is_testnet, a.is_active, a.revision, a.telegram_chat_id,
       a.credential_key_id, a.credential_ciphertext, a.created_at, w.watermark
FROM exchange_accounts a LEFT JOIN stream_watermarks w ON w.account_id = a.id
WHERE a.id = %(id)s;

-- name: save_watermarks
-- Watermarks of many accounts; one written under a higher token is never overwritten by a late writer.
INSERT INTO stream_watermarks (account_id, token, watermark) VALUES %s
ON CONFLICT (account_id) DO UPDATE SET token = EXCLUDED.token, watermark = EXCLUDED.watermark, updated_at = now()
WHERE stream_watermarks.token <= EXCLUDED.token;

-- name: deactivate
-- Credentials are dead: only if the row is still the one whose credentials were tried.
UPDATE exchange_accounts SET is_active = false, deactivated_reason = %(reason)s, deactivated_at = now()
WHERE id = %(id)s AND is_active AND revision = %(revision)s
RETURNING telegram_chat_id;

-- name: notice
-- One notice per incident, sent by the coordinator's leader; nobody to tell without a chat.
INSERT INTO outbox (account_id, incident, chat_id, text) VALUES (%(id)s, %(incident)s, %(chat)s, %(text)s)
ON CONFLICT (incident) DO NOTHING;
