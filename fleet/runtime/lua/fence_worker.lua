-- The leader's verdict on one incarnation: from now on its every call is answered FENCED, also if it wakes years later.
-- KEYS leader, workers, w, d    ARGV holder|term, slot, incarnation, channel
-- Returns {NOTLEADER}, {CHANGED} (another incarnation has registered meanwhile) or {OK}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
local inc = redis.call('HGET', KEYS[3], 'inc')
if inc and inc ~= ARGV[3] then return {'CHANGED'} end
redis.call('HSET', KEYS[3], 'fenced_inc', ARGV[3], 'state', 'fenced')
redis.call('HINCRBY', KEYS[3], 'version', 1)
redis.call('DEL', KEYS[4])
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[4], 'fenced')
return {'OK'}
