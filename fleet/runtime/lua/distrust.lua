-- A worker has seen a newer state of these data than they show: they are an older copy (R10). Without a generation nobody obeys
-- them, and the leader rebuilds, which stops no stream.
-- KEYS gen    ARGV gen
-- Returns {OK, "1"}, or {OK, "0"} where another generation has begun meanwhile. Run twice: the second changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'OK', '0'} end
redis.call('DEL', KEYS[1])
return {'OK', '1'}
