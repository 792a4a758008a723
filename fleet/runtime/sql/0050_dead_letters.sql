-- A topic that was made anew counts from 0 again: what was put aside at a place is not the record that stands there now. The headers
-- of a user record (token, shard, incarnation) go back to Kafka with it.
ALTER TABLE dead_letter ADD COLUMN headers jsonb NOT NULL DEFAULT '{}';
ALTER TABLE dead_letter DROP CONSTRAINT dead_letter_sink_topic_partition_offset_key;
CREATE UNIQUE INDEX dead_letter_record ON dead_letter (sink, topic, partition, "offset", md5(COALESCE(value, '')));
