-- Remove every trace of a worker that will not come back. The leader calls it when no record names the slot any more.
-- KEYS leader, workers, w, d, r    ARGV holder|term, slot, incarnation
-- Returns {NOTLEADER}, {CHANGED} or {OK}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
local inc = redis.call('HGET', KEYS[3], 'inc')
if inc and inc ~= ARGV[3] then return {'CHANGED'} end
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
redis.call('SREM', KEYS[2], ARGV[2])
return {'OK'}
