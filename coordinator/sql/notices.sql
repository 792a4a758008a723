-- name: waiting
-- How many notices are due, for a look without a transaction on every tick.
SELECT count(*) AS due FROM outbox WHERE sent_at IS NULL AND next_attempt_at <= now();

-- name: claim
-- The oldest notice that is due, locked until the transaction ends: no two senders hold the same one.
SELECT id, account_id, incident, chat_id, text, attempts FROM outbox
WHERE sent_at IS NULL AND next_attempt_at <= now() AND id <> ALL(%(not)s::bigint[])
ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: mark_sent
-- Written before the message goes out and committed after Telegram took it.
UPDATE outbox SET sent_at = now(), attempts = attempts + 1, last_error = NULL WHERE id = %(id)s;

-- name: mark_delivered
-- Notices Telegram took although the commit of mark_sent failed.
UPDATE outbox SET sent_at = now(), attempts = attempts + 1, last_error = NULL
WHERE id = ANY(%(ids)s::bigint[]) AND sent_at IS NULL;

-- name: put_off
-- Try again after `wait_s`.
UPDATE outbox SET attempts = attempts + 1, last_error = %(error)s,
       next_attempt_at = now() + make_interval(secs => %(wait_s)s)
WHERE id = %(id)s AND sent_at IS NULL;

-- name: skip
-- Never to be sent: no bot, no chat, or a chat that refuses. `infinity` keeps the row out of every later look.
UPDATE outbox SET last_error = %(error)s, next_attempt_at = 'infinity' WHERE id = %(id)s AND sent_at IS NULL;

-- name: move_chat
-- The group became a supergroup: this account's notices and the account itself use its new id.
WITH moved AS (
    UPDATE exchange_accounts SET telegram_chat_id = %(new)s WHERE telegram_chat_id = %(old)s
)
UPDATE outbox SET chat_id = %(new)s WHERE chat_id = %(old)s AND sent_at IS NULL;
