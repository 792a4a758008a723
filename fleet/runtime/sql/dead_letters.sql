-- name: list_dead_letters
-- Records that a sink could not store, newest first.
SELECT id, sink, topic, partition, "offset", reason, at, retried_at
FROM dead_letter ORDER BY id DESC LIMIT %(most)s;

-- name: pending_dead_letters
-- The records to send again: those named, or every one that was not sent again yet.
SELECT id, topic, key, value, headers FROM dead_letter
WHERE CASE WHEN %(ids)s::bigint[] IS NULL THEN retried_at IS NULL ELSE id = ANY(%(ids)s::bigint[]) END
ORDER BY id;

-- name: mark_retried
-- The broker has acknowledged these records again; a record that is still bad comes back as a new row.
UPDATE dead_letter SET retried_at = now() WHERE id = ANY(%(ids)s::bigint[]);
